"""The experiments of EcoServe's evaluation, and those beyond it, on the simulator."""
