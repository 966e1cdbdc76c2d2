"""Life-cycle stamps of a request and what follows from them."""
