"""From messages to results: the same way for the live node and for the replay of a bag."""
