"""What was found for questions and for training text, kept in blocks and put to the test."""
