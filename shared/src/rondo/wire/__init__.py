"""Messages that cross the bus, and the one codec for them."""
