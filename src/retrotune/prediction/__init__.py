"""Prediction: greedy answers to a cell's test questions, and what the model saw of each."""
