"""Faults against a live cluster under load, and what its clients see of them."""
