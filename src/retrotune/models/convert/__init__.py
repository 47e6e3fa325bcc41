"""Checkpoints of other makers -> folders in transformers layout."""
