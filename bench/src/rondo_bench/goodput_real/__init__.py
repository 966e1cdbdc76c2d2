"""Goodput for real: Rondo's cluster against the same engines served plainly, side by side."""
