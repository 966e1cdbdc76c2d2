"""Turns orders of coordinators into instances that run."""
