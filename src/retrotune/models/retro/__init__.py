"""RETRO and GPT as one decoder."""
