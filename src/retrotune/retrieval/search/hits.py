"""What a search finds."""

from typing import Any

import numpy as np

Hits = tuple[Any, Any]
"""(rows, scores) [n, k] of passages found for n texts, best first; row -1 (score -inf) after the last one found."""


def no_hits(n: int, k: int) -> Hits:
    """Nothing found for n texts."""
    return np.full((n, k), -1, dtype=np.int64), np.full((n, k), -np.inf, dtype=np.float32)
