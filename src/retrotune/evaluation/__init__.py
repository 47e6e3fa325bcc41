"""Evaluation: greedy generation, scores per question, and a cell's metrics with confidence intervals."""

ANSWERS = "partial.jsonl"
"""In a cell's work folder: answers of a prediction that was interrupted, or is not scored yet."""
