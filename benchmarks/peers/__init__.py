"""Baselines trained on the same images for the same time, scored by the same metric."""
