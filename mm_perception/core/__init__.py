"""What flows through the stack, what can go wrong and what can be set. Imports nothing of the other rooms."""
