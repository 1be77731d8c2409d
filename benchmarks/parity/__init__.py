"""minigrad beside torch, number by number: `python -m benchmarks.parity`."""
