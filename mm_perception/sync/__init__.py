"""Matching the messages of several sensors to the stamps of a reference sensor."""
