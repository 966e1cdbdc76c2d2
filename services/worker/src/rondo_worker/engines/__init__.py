"""Engines behind one contract; see base.py."""
