"""Array code on NumPy and scikit-image: no torch, no window."""
