"""Evaluation: greedy generation, scores per question, and a cell's metrics with confidence intervals."""
