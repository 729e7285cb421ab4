"""The command `mm-perception`; the only room that prints."""
