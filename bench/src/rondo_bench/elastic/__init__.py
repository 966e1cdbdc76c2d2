"""A live cluster whose instances follow the load: mitosis with real processes."""
