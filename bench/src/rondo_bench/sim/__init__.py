"""The simulator: the live policies, driven by an event heap instead of a cluster."""
