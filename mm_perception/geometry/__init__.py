"""Rigid transforms, the transform tree, camera models and boxes."""
