"""Macro-instance scheduler of a Rondo cluster."""
