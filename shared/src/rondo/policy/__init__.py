"""Pure schedulers: events in, effects out. No I/O, no clock, no randomness."""
