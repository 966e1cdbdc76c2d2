"""Training and judging the predictor of answer lengths."""
