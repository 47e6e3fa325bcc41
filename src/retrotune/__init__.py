"""retrotune: retrieval x parameter-efficient fine-tuning, for GPT and RETRO."""

__version__ = "0.1.0"
