"""Synthetic worlds with ground truth."""
