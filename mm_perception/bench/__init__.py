"""Measuring what networks and the whole pipeline cost; used by the commands `mm-perception bench ...` alone."""
