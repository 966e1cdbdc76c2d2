"""Benchmarks of Rondo."""
