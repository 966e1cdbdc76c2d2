"""Latency models of instances and their fitted profiles."""
