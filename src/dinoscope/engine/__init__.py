"""What a user does, without a window: predict, train, evaluate."""
