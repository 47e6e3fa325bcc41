"""Comparisons of two arms, and claims with their verdicts."""
