"""What models read, as tokens: the one place where texts are put together, for training, prediction and display."""
