"""What it costs to stream a token, in the gateway and in what else a user might run."""
