"""Recorded data sets to bags: real frames at their own stamps, with calibration and truth as far as there is some."""
