"""Engines compared: the same model and cases, in turns, each engine in a process of its own."""
