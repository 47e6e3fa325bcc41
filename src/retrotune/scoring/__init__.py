"""Scoring: metrics, statistics, a cell's scores, and the quality of retrieval."""
