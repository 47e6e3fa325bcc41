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
    return permutation_ps(strata, [pairs], resamples, seed)[0]


def permutation_ps(
    strata: Sequence[Stratum], tests: Sequence[Sequence[Pairs]], resamples: int, seed: int = 0
) -> list[float]:
    """`permutation_p` of several tests, each with pairs of every stratum; they share their coins, not their values."""
    observed_T = np.array(
        [
            sum(
                float(weights_N @ (stratum.scores_C[first_N] - stratum.scores_C[second_N]))
                for stratum, (first_N, second_N, weights_N) in zip(strata, pairs, strict=True)
            )
            for pairs in tests
        ]
    )
    rng = np.random.default_rng(seed)
    hits_T = np.zeros(len(tests), dtype=np.int64)
    for count in _batches(resamples, max(stratum.num_clusters for stratum in strata)):
        effects_RT = np.zeros((count, len(tests)))
        for place, stratum in enumerate(strata):
            own = [pairs[place] for pairs in tests]
            if not any(len(weights_N) for _, _, weights_N in own):
                continue
            swap_RG = rng.integers(0, 2, (count, stratum.num_clusters), dtype=np.int8).astype(np.float64)
            effects_RT += _swapped(stratum, own, swap_RG)
        hits_T += (np.abs(effects_RT) >= np.abs(observed_T) - _ROUNDING).sum(axis=0)
    return [float(p) for p in (1 + hits_T) / (1 + resamples)]


def _swapped(stratum: Stratum, tests: Sequence[Pairs], swap_RG: Array) -> Array:
    """Effects of a stratum on each test where clusters are swapped, R x T."""
    size = stratum.sizes_G.sum()
    sums_CGP = stratum.sums_CGP
    if sums_CGP.shape[2] == 1:  # a mean: all pairs of a test are one difference per cluster
        moved_GT = np.stack(
            [
                weights_N @ (sums_CGP[second_N, :, 0] - sums_CGP[first_N, :, 0]) / size
                for first_N, second_N, weights_N in tests
            ],
            axis=1,
        )
        return np.asarray(2 * (swap_RG @ moved_GT) - moved_GT.sum(axis=0))
    effects_RT = np.zeros((len(swap_RG), len(tests)))
    for number, (first_N, second_N, weights_N) in enumerate(tests):
        sums_NGP = sums_CGP[first_N], sums_CGP[second_N]
        moved_RNP = np.tensordot(swap_RG, sums_NGP[1] - sums_NGP[0], axes=([1], [1]))
        first_RN = stratum.scores_of(sums_NGP[0].sum(axis=1) + moved_RNP, size)
        second_RN = stratum.scores_of(sums_NGP[1].sum(axis=1) - moved_RNP, size)
        effects_RT[:, number] = (first_RN - second_RN) @ weights_N
    return effects_RT


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
