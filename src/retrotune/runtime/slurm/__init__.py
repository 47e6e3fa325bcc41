"""Slurm: the one room that calls its commands and reads its variables."""
