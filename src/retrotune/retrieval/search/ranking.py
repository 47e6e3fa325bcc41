"""The best of many scores, with ties broken the same way everywhere."""

from typing import Any

import numpy as np


def best_rows(scores: Any, k: int) -> Any:
    """Positions of the `k` highest of `scores` [n], best first; ties go to the lower position. All n if k >= n."""
    if k >= len(scores):
        return np.argsort(-scores, kind="stable")
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
    candidates = np.flatnonzero(scores >= threshold)
    return candidates[np.argsort(-scores[candidates], kind="stable")[:k]]
