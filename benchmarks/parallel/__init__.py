"""Training on two ranks, side by side; see `python -m benchmarks.parallel --help`."""
