"""A load client for any OpenAI-compatible server, and what it saw as figures."""
