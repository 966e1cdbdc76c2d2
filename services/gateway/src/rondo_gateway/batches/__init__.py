"""The batch API: files, batches, and the lines of batches run as requests of their own."""
