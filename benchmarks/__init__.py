"""Side-by-side timings of one training step against the libraries a user would pick instead."""
