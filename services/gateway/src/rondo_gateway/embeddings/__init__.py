"""POST /v1/embeddings: prompts as vectors."""
