"""Retrieval: passages to vectors, vectors to an index, questions and pretraining text to cached neighbors."""
