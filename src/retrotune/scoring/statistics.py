"""Confidence intervals of mean scores."""

from collections.abc import Sequence


def bootstrap_interval(scores: Sequence[float], samples: int, seed: int = 0) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval (low, high) of the mean over questions, in the unit of the scores.

    It says how far the mean would move with other questions of the same kind; it knows nothing of other training seeds.
    None where nothing can be said: no resamples asked for, or fewer than two scores.
    """
    if samples == 0 or len(scores) < 2:
        return None
    import numpy as np
    from scipy.stats import bootstrap

    data = (np.asarray(scores, dtype=np.float64),)
    # the batch bounds the memory of a resample matrix: 50 x 11,313 float64 of TriviaQA's test split are 4.5 MB
    interval = bootstrap(
        data, np.mean, n_resamples=samples, batch=50, confidence_level=0.95, method="percentile", rng=seed
    ).confidence_interval
    return float(interval.low), float(interval.high)
