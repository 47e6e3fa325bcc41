"""The best of many scores, with ties broken the same way everywhere."""

from typing import Any

import numpy as np

Hits = tuple[Any, Any]
"""(rows, scores) [n, k] of passages found for n texts, best first; row -1 after the last one found."""


def no_hits(n: int, k: int) -> Hits:
    """Room for `k` passages of each of `n` texts, nothing found yet."""
    return np.full((n, k), -1, dtype=np.int64), np.full((n, k), -np.inf, dtype=np.float32)


def best_rows(scores: Any, k: int) -> Any:
    """Positions of the `k` highest of `scores` [n], best first; ties go to the lower position. All n if k >= n."""
    if k >= len(scores):
        return np.argsort(-scores, kind="stable")
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
    candidates = np.flatnonzero(scores >= threshold)
    return candidates[np.argsort(-scores[candidates], kind="stable")[:k]]
