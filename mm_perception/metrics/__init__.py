"""Measures of quality and speed; no input or output of files."""
