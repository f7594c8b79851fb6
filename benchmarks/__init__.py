"""Accuracy, speed and memory, measured; outside the test suite. See :mod:`benchmarks.run`."""
