"""What each task adds to a backbone: targets, loss, decoding."""
