"""Rondo: LLM serving for clusters of ordinary GPUs on ordinary Ethernet."""

__version__ = "0.1.0"
