"""What retrieval costs before it runs: disk, memory and time of a study's stages, and of two published sizes."""
