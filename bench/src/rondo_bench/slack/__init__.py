"""What a batch gets in the slack of online traffic, and what online traffic feels of it."""
