"""sparsefact beside its peers on the same inputs; `python -m benchmarks.peers` runs it."""
