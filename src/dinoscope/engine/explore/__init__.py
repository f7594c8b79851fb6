"""Features: encode images once, then look at their tokens as colours, points and similarities."""
