"""What a trajectory and each of its turns earn, from text and golden answers alone."""
