"""EconoServe and its rivals on one instance, simulated or on a real engine."""
