"""A study: its configuration, its cells, its artifacts, and what each stage uses. No torch."""
