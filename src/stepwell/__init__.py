"""stepwell: the part of deep-learning training that moves the weights."""
