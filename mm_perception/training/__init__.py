"""Training of segmentation networks: where frames come from, how they are varied, the loop, and publishing.

A run is a function of card, frames, recipe and seed. On a CPU it is repeatable to the bit for a given number of
threads, across interruptions too.
"""
