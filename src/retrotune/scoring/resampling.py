"""p-values by resampling whole clusters: permutation of two paired arms, and the bootstrap of any combination.

Both are two-sided, and (1 + hits) / (1 + resamples), so that none is 0. Shape letters as in `scoring.statistics`;
R resamples of one batch, N pairs.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from retrotune.scoring.statistics import Array, Stratum

_AT_ONCE = 4_000_000
"""Numbers of a batch of resamples: 32 MB."""
_ROUNDING = 1e-9
"""Points by which resampled values may differ that are equal: a tie counts as a hit."""


class Pairs(NamedTuple):
    """Paired cells of one stratum, by their places: the weighted mean of `first` - `second` is the effect."""

    first_N: Array
    second_N: Array
    weights_N: Array


def permutation_p(strata: Sequence[Stratum], pairs: Sequence[Pairs], resamples: int, seed: int = 0) -> float:
    """p that two arms are alike: in each resample a coin per cluster says whether all of its pairs swap their arms.

    The effect is the sum over strata of weighted differences. Pairs of one stratum swap together, as their cells answer
    the same questions.
    """
    observed = sum(
        float(weights_N @ (stratum.scores_C[first_N] - stratum.scores_C[second_N]))
        for stratum, (first_N, second_N, weights_N) in zip(strata, pairs, strict=True)
    )
    rng = np.random.default_rng(seed)
    hits = 0
    for count in _batches(resamples, max(stratum.num_clusters for stratum in strata)):
        effects_R = np.zeros(count)
        for stratum, (first_N, second_N, weights_N) in zip(strata, pairs, strict=True):
            if not len(weights_N):
                continue
            swap_RG = rng.integers(0, 2, (count, stratum.num_clusters), dtype=np.int8).astype(np.float64)
            effects_R += _swapped(stratum, first_N, second_N, weights_N, swap_RG)
        hits += int((np.abs(effects_R) >= abs(observed) - _ROUNDING).sum())
    return (1 + hits) / (1 + resamples)


def _swapped(stratum: Stratum, first_N: Array, second_N: Array, weights_N: Array, swap_RG: Array) -> Array:
    """Effects of a stratum where clusters are swapped."""
    sums_NGP = stratum.sums_CGP[first_N], stratum.sums_CGP[second_N]
    moved_NGP = sums_NGP[1] - sums_NGP[0]
    size = stratum.sizes_G.sum()
    if stratum.sums_CGP.shape[2] == 1:  # a mean: all pairs are one difference per cluster
        moved_G = np.tensordot(weights_N, moved_NGP[:, :, 0], axes=1) / size
        return np.asarray(2 * (swap_RG @ moved_G) - moved_G.sum())
    moved_RNP = np.tensordot(swap_RG, moved_NGP, axes=([1], [1]))
    first_RN = stratum.scores_of(sums_NGP[0].sum(axis=1) + moved_RNP, size)
    second_RN = stratum.scores_of(sums_NGP[1].sum(axis=1) - moved_RNP, size)
    return np.asarray((first_RN - second_RN) @ weights_N)


def bootstrap_p(
    strata: Sequence[Stratum], weights: Sequence[Array], null: float, resamples: int, seed: int = 0
) -> float:
    """p that the least of K combinations of scores is `null`: how often resampled clusters move it as far.

    `weights[s]` is K x C, as of `statistics.estimate`.
    """
    parts_SK = [weights_KC @ stratum.scores_C for stratum, weights_KC in zip(strata, weights, strict=True)]
    observed = float(np.sum(parts_SK, axis=0).min())
    rng = np.random.default_rng(seed)
    hits = 0
    for count in _batches(resamples, max(stratum.num_clusters for stratum in strata)):
        effects_RK = np.zeros((count, len(weights[0])))
        for stratum, weights_KC in zip(strata, weights, strict=True):
            used = np.flatnonzero(np.any(weights_KC, axis=0))
            if not len(used):
                continue
            clusters = stratum.num_clusters
            # of this size counting draws takes a fifth of the time of numpy's multinomial
            drawn_RG = rng.integers(0, clusters, (count, clusters)) + np.arange(count)[:, None] * clusters
            times_RG = np.bincount(drawn_RG.ravel(), minlength=count * clusters).reshape(count, clusters)
            times_RG = times_RG.astype(np.float64)
            sums_RCP = np.tensordot(times_RG, stratum.sums_CGP[used], axes=([1], [1]))
            scores_RC = stratum.scores_of(sums_RCP, (times_RG @ stratum.sizes_G)[:, None])
            effects_RK += scores_RC @ weights_KC[:, used].T
        moved_R = np.abs(effects_RK.min(axis=1) - observed)
        hits += int((moved_R >= abs(observed - null) - _ROUNDING).sum())
    return (1 + hits) / (1 + resamples)


def _batches(resamples: int, clusters: int) -> Iterator[int]:
    """Numbers of resamples to make at once."""
    most = max(1, _AT_ONCE // clusters)
    for start in range(0, resamples, most):
        yield min(most, resamples - start)
