"""One module a peer; each turns a workload into a training step. See `benchmarks.peers.step`."""
