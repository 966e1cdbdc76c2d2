"""The report: results of the experiments as one HTML page, and a short Markdown summary."""
