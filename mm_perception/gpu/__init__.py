"""What `sensing` does in numpy, in torch on the device of the network: same inputs, same results."""
