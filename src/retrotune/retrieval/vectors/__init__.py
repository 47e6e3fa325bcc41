"""Passages and questions as vectors: encoders, and vectors on disk."""
