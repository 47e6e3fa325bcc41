"""How often a 95 % interval holds the true value, in simulated scores whose truth is known.

Thirty documents of five questions each. A latent normal number per question, correlated by 0.3 within a document, is
right above a threshold. Beside the intervals of the tables stands the percentile bootstrap over single questions, which
takes the questions of one document for independent. The last rows are a function of means (a geometric mean of three
parts), the difference of two arms that answer the same questions, and two arms of three runs each.
"""

import argparse

import numpy as np
from scipy.special import ndtri
from scipy.stats import bootstrap

from retrotune.scoring.statistics import Estimate, Spread, Stratum, estimate, run_spread

DOCUMENTS, QUESTIONS, CORRELATION = 30, 5, 0.3
CLUSTERS = np.repeat(np.arange(DOCUMENTS), QUESTIONS)
TRUTHS = (0.5, 0.3, 0.1)


def latent(rng: np.random.Generator) -> np.ndarray:
    """A standard normal number per question, correlated within documents."""
    shared = np.repeat(rng.standard_normal(DOCUMENTS), QUESTIONS)
    own = rng.standard_normal(DOCUMENTS * QUESTIONS)
    return np.sqrt(CORRELATION) * shared + np.sqrt(1 - CORRELATION) * own


def right(number_Q: np.ndarray, truth: float) -> np.ndarray:
    """100 where the answer is right, which it is with probability `truth`."""
    return 100.0 * (number_Q > ndtri(1 - truth))


def of_cells(*parts_CQP: np.ndarray, combination: str = "mean", weights: tuple[float, ...] = (1.0,)) -> Estimate:
    stratum = Stratum.of(np.stack(parts_CQP), CLUSTERS, combination)
    return estimate([stratum], [np.array([weights])])


def mean(rng: np.random.Generator, truth: float) -> tuple[Estimate, float]:
    return of_cells(right(latent(rng), truth)[:, None]), 100 * truth


def geometric(rng: np.random.Generator, truth: float) -> tuple[Estimate, float]:
    """Three parts of one number, with thresholds of their own, as ROUGE's three are of one answer."""
    number_Q, truths = latent(rng), (truth, truth / 2, truth * 0.8)
    parts_QP = np.stack([right(number_Q, part) for part in truths], axis=1)
    return of_cells(parts_QP, combination="geometric"), 100 * float(np.prod(truths) ** (1 / 3))


def difference(rng: np.random.Generator, truth: float) -> tuple[Estimate, float]:
    """Arms that share half of what makes a question hard; the second is right in 10 of 100 questions less."""
    shared, other = latent(rng), latent(rng)
    first = right(shared, truth)[:, None]
    second = right(np.sqrt(0.5) * shared + np.sqrt(0.5) * other, truth - 0.1)[:, None]
    return of_cells(first, second, weights=(1.0, -1.0)), 10.0


def runs(rng: np.random.Generator, truth: float) -> tuple[Estimate, float]:
    """Three trainings of one row, whose thresholds differ by chance: the truth is the mean over all trainings."""
    number_Q, spread = latent(rng), 0.4
    cutoff = ndtri(1 - truth) * np.sqrt(1 + spread**2)
    shifts = spread * rng.standard_normal(3)
    cells = [100.0 * (number_Q + shift > cutoff)[:, None] for shift in shifts]
    stratum = Stratum.of(np.stack(cells), CLUSTERS)
    between = run_spread([float(score) for score in stratum.scores_C])
    return estimate([stratum], [np.full((1, 3), 1 / 3)], [between or Spread(0, 1)]), 100 * truth


def covered(estimated: Estimate, truth: float) -> bool:
    low, high = estimated.interval()
    return low <= truth <= high


def over_questions(rng: np.random.Generator, truth: float) -> bool:
    """Whether the percentile bootstrap over single questions holds the truth."""
    data = (right(latent(rng), truth),)
    found = bootstrap(data, np.mean, n_resamples=1000, method="percentile", rng=rng).confidence_interval
    return bool(found.low <= 100 * truth <= found.high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=5000, metavar="N", help="simulated studies per row")
    parser.add_argument("--bootstrap-draws", type=int, default=1000, metavar="N", help="of the slow comparison")
    arguments = parser.parse_args()
    values = {}
    for draw in (mean, geometric, difference, runs):
        for truth in TRUTHS if draw is mean else (0.5, 0.3):
            rng = np.random.default_rng(20)
            hits = sum(covered(*draw(rng, truth)) for _ in range(arguments.draws))
            values[f"coverage_{draw.__name__}_{100 * truth:.0f}"] = 100 * hits / arguments.draws
    for truth in TRUTHS:
        rng = np.random.default_rng(20)
        hits = sum(over_questions(rng, truth) for _ in range(arguments.bootstrap_draws))
        values[f"coverage_bootstrap_over_questions_{100 * truth:.0f}"] = 100 * hits / arguments.bootstrap_draws
    for name, value in values.items():
        print(f"VALUE {name} {value:.1f}")


if __name__ == "__main__":
    main()
