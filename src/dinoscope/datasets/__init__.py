"""Readers of published sets, the synthetic generator and the sample images."""
