"""The bus: subjects, the Bus protocol, its NATS and its in-memory implementation."""
