"""Search: indexes, exact search, BM25 and controls, all asked alike."""
