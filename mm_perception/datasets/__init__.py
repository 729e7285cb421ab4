"""Frames with truth on disk: which files belong together, what label files mean, and whose classes they are."""
