"""A whole cluster on one machine: launcher, embedded bus, command line."""
