"""Benchmarks of one pipeline: TD-Pipe and its rivals, simulated and on a real pipeline engine."""
