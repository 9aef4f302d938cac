"""Measurements that the documentation's numbers come from: ``python -m benchmarks.NAME`` in the repository."""
