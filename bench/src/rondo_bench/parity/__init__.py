"""Parity: the same workload on a live cluster of emulated instances and in the simulator."""
