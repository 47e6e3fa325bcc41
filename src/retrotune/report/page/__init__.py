"""The report: one page that a browser opens without a network."""
