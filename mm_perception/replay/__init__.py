"""Bag in, results and metrics out: the node's pipeline without ROS, as fast as it goes."""
