"""Training: tokenizers, batches, pretraining from scratch, fine-tuning of cells."""
