"""Intervals of scores, and of what is computed from scores: delete-one-cluster jackknife with Student's t.

Questions about one document are a *cluster*: what one of them says of a model, the others say too. Every interval here
leaves out whole clusters, never single questions of one (clustered standard errors: Miller 2024, arXiv 2411.00640).
The same code serves means and functions of means (`retrotune.data.scores`), because each left-out value is computed
from sums. Questions of several datasets are independent, and so are *runs*: a model trained again with another seed.

Shape letters: C cells, G clusters, Q questions, P parts of a metric, K combinations of scores.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from retrotune.data.scores import Combination, combine

LEVEL = 0.95
POWER = 0.8
_NOTHING = 1e-18
"""A variance, in squared points, that is rounding and no spread."""

Array = np.ndarray[Any, np.dtype[Any]]


def t_quantile(probability: float, df: float) -> float:
    """Quantile of Student's t; of the normal distribution for infinite degrees of freedom."""
    from scipy.special import ndtri, stdtrit

    return float(ndtri(probability) if math.isinf(df) else stdtrit(df, probability))


def t_two_sided(statistic: float, df: float) -> float:
    """Probability of a value of Student's t at least as far from 0."""
    from scipy.special import ndtr, stdtr

    below = -abs(statistic)
    return float(2 * (ndtr(below) if math.isinf(df) else stdtr(df, below)))


@dataclass(frozen=True)
class Stratum:
    """Scores of cells on the same questions of one dataset, summed by cluster.

    `sums_CGP` are sums over a cluster's questions, `sizes_G` the questions of each. Some cells, questions in clusters,
    parts.
    """

    sums_CGP: Array
    sizes_G: Array
    combination: Combination = "mean"

    @classmethod
    def of(cls, parts_CQP: Array, clusters: Sequence[Hashable], combination: Combination = "mean") -> "Stratum":
        """From scores per question; `clusters` names the cluster of each question."""
        places = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
        cluster_Q = np.array([places[name] for name in clusters])
        sums_GCP = np.zeros((len(places), parts_CQP.shape[0], parts_CQP.shape[2]))
        np.add.at(sums_GCP, cluster_Q, np.asarray(parts_CQP, dtype=np.float64).transpose(1, 0, 2))
        sizes_G = np.bincount(cluster_Q, minlength=len(places)).astype(np.float64)
        return cls(sums_GCP.transpose(1, 0, 2), sizes_G, combination)

    @property
    def num_clusters(self) -> int:
        """G."""
        return len(self.sizes_G)

    @property
    def num_questions(self) -> int:
        """Q."""
        return int(self.sizes_G.sum())

    @cached_property
    def scores_C(self) -> Array:
        """Each cell's score over all questions."""
        return self.scores_of(self.sums_CGP.sum(axis=1), self.sizes_G.sum())

    @cached_property
    def left_out_CG(self) -> Array:
        """Each cell's score without each cluster in turn; needs two clusters."""
        totals_C1P = self.sums_CGP.sum(axis=1, keepdims=True)
        return self.scores_of(totals_C1P - self.sums_CGP, self.sizes_G.sum() - self.sizes_G)

    def scores_of(self, sums_XP: Array, sizes_X: Array | float) -> Array:
        """Scores from sums and numbers of questions, over any leading axes."""
        means_XP = sums_XP / np.asarray(sizes_X)[..., None]
        # a difference of sums may fall below 0 by rounding, of which there is no root
        return np.asarray(combine(self.combination, list(np.moveaxis(np.maximum(means_XP, 0), -1, 0))))


@dataclass(frozen=True)
class Spread:
    """One independent part of an estimate's variance, with its degrees of freedom."""

    variance: float
    df: float


@dataclass(frozen=True)
class Estimate:
    """A value, in points, with what is known of its spread: that over clusters and, of several runs, that over runs.

    `lowest` and `highest` bound what it could be at all; `num_clusters` is the number that varied.
    """

    value: float
    spreads: tuple[Spread, ...]
    num_clusters: int
    num_questions: int
    lowest: float = 0.0
    highest: float = 100.0
    means_K: tuple[float, ...] = field(default=())
    """The combinations of which `value` is the least; the value itself where there is one."""

    @property
    def se(self) -> float:
        """Standard error, in points."""
        return math.sqrt(sum(spread.variance for spread in self.spreads))

    @property
    def varies(self) -> bool:
        """Whether clusters or runs differ at all. Where they do not, resampling them says nothing."""
        return self.se**2 > _NOTHING

    def _half(self, probability: float) -> float:
        """How far the value is, with this probability, at most above the truth.

        Each part of the spread takes its own quantile of Student's t, and the distances add up as variances do. One
        quantile for the sum (Welch and Satterthwaite) holds the truth too seldom where runs are few and vary much: in
        91 instead of 95 of 100 simulated studies of three runs (`benchmarks/coverage.py`).
        """
        return math.sqrt(sum(t_quantile(probability, s.df) ** 2 * s.variance for s in self.spreads))

    def interval(self, level: float = LEVEL) -> tuple[float, float] | None:
        """The bounds at a confidence level; None where a single cluster says nothing of spread.

        Where no cluster differs from another, the spread is unknown rather than none: the bounds are then what could be
        if every cluster that is unlike the ones seen, of which there may be a share of 1 - ((1 - level) / 2)^(1/G),
        were at the extreme. For a score of 0 that is the exact binomial bound over clusters.
        """
        if not self.spreads:
            return None
        if not self.varies:
            share = 1 - ((1 - level) / 2) ** (1 / self.num_clusters)
            low, high = (
                self.value - share * (self.value - self.lowest),
                self.value + share * (self.highest - self.value),
            )
        else:
            half = self._half((1 + level) / 2)
            low, high = self.value - half, self.value + half
        return max(low, self.lowest), min(high, self.highest)

    def p_value(self, null: float = 0.0) -> float | None:
        """Two-sided p by Student's t that the value is `null`: of the widest interval without it, 1 - level.

        None where nothing is known of spread.
        """
        if not self.spreads:
            return None
        distance = abs(self.value - null)
        if not self.varies:
            room = self.highest - self.value if null > self.value else self.value - self.lowest
            share = min(1.0, distance / room) if room > 0 else float(distance > 0)
            return min(1.0, 2 * (1 - share) ** self.num_clusters)
        if len(self.spreads) == 1:
            return t_two_sided(distance / self.se, self.spreads[0].df)
        low, high = 0.0, 1.0  # of p; its logarithm is halved as often as doubles are exact
        for _ in range(60):
            middle = math.sqrt(low * high) if low > 0 else high / 1000
            if self._half(1 - middle / 2) > distance:
                low = middle
            else:
                high = middle
            if high < 1e-12:
                break
        return high

    def detectable(self, level: float = LEVEL, power: float = POWER) -> float | None:
        """The smallest true difference that a test at this level would have found with this power, in points."""
        if not self.spreads or not self.varies:
            return None
        return self._half((1 + level) / 2) + self._half(power)


def together(spreads: Sequence[Spread]) -> Spread:
    """The spread of a sum of independent parts of one kind, with the degrees of freedom of Welch and Satterthwaite."""
    variance = sum(spread.variance for spread in spreads)
    weights = sum(spread.variance**2 / spread.df for spread in spreads)
    return Spread(variance, variance**2 / weights if weights > 0 else sum(spread.df for spread in spreads))


def estimate(strata: Sequence[Stratum], weights: Sequence[Array], runs: Sequence[Spread] = ()) -> Estimate:
    """The least of K combinations of scores: `weights[s]` is K x C, of the cells of stratum s. K = 1: the combination.

    Clusters are left out one at a time; strata are independent. `runs` adds the variance between trainings.
    """
    parts_SK = np.array([weights_KC @ stratum.scores_C for stratum, weights_KC in zip(strata, weights, strict=True)])
    whole_K = parts_SK.sum(axis=0)
    spreads = []
    for stratum, weights_KC, own_K in zip(strata, weights, parts_SK, strict=True):
        if stratum.num_clusters < 2 or not np.any(weights_KC):
            continue
        left_KG = weights_KC @ stratum.left_out_CG + (whole_K - own_K)[:, None]
        left_G = left_KG.min(axis=0)
        count = len(left_G)
        spreads.append(Spread(float((count - 1) / count * ((left_G - left_G.mean()) ** 2).sum()), count - 1))
    used = [stratum for stratum, weights_KC in zip(strata, weights, strict=True) if np.any(weights_KC)]
    positive = sum(np.maximum(weights_KC, 0).sum(axis=1) for weights_KC in weights)
    negative = sum(np.minimum(weights_KC, 0).sum(axis=1) for weights_KC in weights)
    complete = len(spreads) == len(used)
    return Estimate(
        float(whole_K.min()),
        (together(spreads), *([together(runs)] if runs else [])) if complete and spreads else (),
        sum(stratum.num_clusters for stratum in used),
        sum(stratum.num_questions for stratum in used),
        float(100 * np.min(negative)),
        float(100 * np.max(positive)),
        tuple(map(float, whole_K)),
    )


def cluster_of(question_id: str, doc_id: str | None) -> str:
    """The cluster of a question: its document, else (open domain) the question alone."""
    return f"question {question_id}" if doc_id is None else f"document {doc_id}"


def score_estimate(
    parts_QP: Sequence[Sequence[float]] | Array, clusters: Sequence[Hashable], combination: Combination = "mean"
) -> Estimate:
    """A single cell's score: parts per question, and the cluster of each question."""
    stratum = Stratum.of(np.asarray(parts_QP, dtype=np.float64)[None], clusters, combination)
    return estimate([stratum], [np.ones((1, 1))])


def run_spread(values: Sequence[float]) -> Spread | None:
    """Variance of the mean of several runs' values, s^2 / n; None for a single run, which says nothing of it."""
    if len(values) < 2:
        return None
    return Spread(float(np.var(values, ddof=1)) / len(values), len(values) - 1)


def holm(p_values: Mapping[str, float], alpha: float = 1 - LEVEL) -> dict[str, tuple[float, float]]:
    """(adjusted p, level of a simultaneous interval) of each test, by Holm's step-down procedure.

    The test with the i-th smallest p of m gets the level 1 - alpha / (m - i + 1); from the first that is not below its
    own alpha on, all get the level of that one.
    """
    order = sorted(p_values, key=lambda name: p_values[name])
    adjusted: dict[str, tuple[float, float]] = {}
    highest, stopped = 0.0, None
    for place, name in enumerate(order):
        left = len(order) - place
        highest = max(highest, min(1.0, left * p_values[name]))
        if stopped is None and highest > alpha:
            stopped = left
        adjusted[name] = highest, 1 - alpha / (stopped or left)
    return {name: adjusted[name] for name in p_values}
