"""What a combination of cells' scores is worth: its spread over documents and over trainings, and its p-value.

A *row* is what tables print in one line: a model with its replicates, a method, a retrieval. Its *runs* are trainings
that differ by their seeds: replicates of the base model, seeds of fine-tuning. Scores of runs of one row differ by
chance, as scores on other questions do; both parts of that spread count.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from retrotune.scoring.resampling import Pairs, bootstrap_p, permutation_p
from retrotune.scoring.sheets import Sheet
from retrotune.scoring.statistics import Array, Estimate, Spread, estimate
from retrotune.study.cells import Cell

Weights = Mapping[Cell, float]
"""A linear combination of cells' scores."""
WeightedPair = tuple[Cell, Cell, float]
"""Two cells and the weight of the first one's score minus the second one's."""


class Run(NamedTuple):
    """A training of a row: the number of the base model's replicate (0: the model itself), and the seed."""

    replicate: int
    seed: int


@dataclass(frozen=True)
class Runs:
    """Which row's base model each cell belongs to, and which run of it the cell is."""

    model_of: Mapping[str, str]
    """The model that each model is a replicate of, or itself."""
    number_of: Mapping[str, int]
    """0 for a model, then its replicates in the order of the study."""

    @classmethod
    def of(cls, replicate_of: Mapping[str, str | None]) -> "Runs":
        """From the models of a study, in order, and what each is a replicate of."""
        counts: dict[str, int] = defaultdict(int)
        numbers = {}
        for name, original in replicate_of.items():
            if original is None:
                numbers[name] = 0
            else:
                counts[original] += 1
                numbers[name] = counts[original]
        return cls({name: original or name for name, original in replicate_of.items()}, numbers)

    def run(self, cell: Cell) -> Run:
        """The run that a cell is."""
        return Run(self.number_of[cell.model], cell.seed)

    def row(self, cell: Cell) -> Cell:
        """The cell that stands for all runs of the same row and dataset: of the model itself, without a seed."""
        return Cell(self.model_of[cell.model], cell.method, cell.dataset, cell.retrieval, -1)


@dataclass(frozen=True)
class Outcome:
    """A combination of scores with its spread.

    `num_runs` are the runs of its row with the fewest (1: nothing is known of the spread between trainings), `borrowed`
    the share of the combination whose rows have one run and take the spread of the others.
    """

    estimate: Estimate
    p: float | None
    num_runs: int
    borrowed: float


def outcome(
    sheets: Mapping[str, Sheet],
    combinations: Sequence[Weights],
    runs: Runs,
    *,
    null: float = 0.0,
    pairs: Sequence[WeightedPair] | None = None,
    parts: Sequence[Sequence[Weights]] | None = None,
    resamples: int = 0,
    seed: int = 0,
) -> Outcome:
    """The least of some combinations of cells' scores, and p that it is `null` where `resamples` are asked for.

    With one run p is that of swapping arms within clusters where `pairs` (weighted differences that make the
    combination) are given and `null` is 0, else that of the bootstrap. With several it is Student's t: resampled
    questions know nothing of trainings.

    `parts` are combinations that sum up to each of the `combinations`, and in which all runs of a row count alike.
    Where rows have unlike numbers of runs, a row that is matched with several of them counts more by one run than by
    the next, and only parts say which of its runs stands against which. Without `parts` they are the rows of `pairs`,
    else each combination is one.
    """
    used = [sheet for sheet in sheets.values() if any(cell in sheet.place_of for w in combinations for cell in w)]
    weights = [_placed(sheet, combinations) for sheet in used]
    strata = [sheet.stratum for sheet in used]
    plain = estimate(strata, weights)
    least = int(np.argmin(plain.means_K))
    if parts is None:
        parts = [[combination] for combination in combinations] if pairs is None else [_parts(pairs, runs)]
    cells = {cell for part in parts[least] for cell in part}
    scores = {cell: float(s.stratum.scores_C[s.place_of[cell]]) for s in used for cell in cells if cell in s.place_of}
    spreads, fewest, borrowed = _run_spreads(parts[least], scores, runs)
    found = estimate(strata, weights, spreads) if spreads else plain
    p = None
    if resamples and found.spreads:
        if spreads:
            p = found.p_value(null)
        elif pairs is not None and null == 0:
            p = permutation_p(strata, [placed_pairs(sheet, pairs) for sheet in used], resamples, seed)
        elif not found.varies:
            p = found.p_value(null)
        else:
            p = bootstrap_p(strata, weights, null, resamples, seed)
    return Outcome(found, p, fewest, borrowed)


def _placed(sheet: Sheet, combinations: Sequence[Weights]) -> Array:
    """K x C."""
    weights_KC = np.zeros((len(combinations), len(sheet.cells)))
    for number, combination in enumerate(combinations):
        for cell, weight in combination.items():
            if cell in sheet.place_of:
                weights_KC[number, sheet.place_of[cell]] += weight
    return weights_KC


def placed_pairs(sheet: Sheet, pairs: Sequence[WeightedPair]) -> Pairs:
    """Those of weighted pairs of cells that a sheet holds, by their places."""
    own = [pair for pair in pairs if pair[0] in sheet.place_of]
    return Pairs(
        np.array([sheet.place_of[first] for first, _, _ in own], dtype=int),
        np.array([sheet.place_of[second] for _, second, _ in own], dtype=int),
        np.array([weight for _, _, weight in own], dtype=float),
    )


def _parts(pairs: Sequence[WeightedPair], runs: Runs) -> list[Weights]:
    """The differences of a row's runs from those of another row."""
    rows: dict[tuple[Cell, Cell], list[WeightedPair]] = defaultdict(list)
    for pair in pairs:
        rows[runs.row(pair[0]), runs.row(pair[1])].append(pair)
    return [difference(own) for own in rows.values()]


def _run_spreads(parts: Sequence[Weights], scores: Mapping[Cell, float], runs: Runs) -> tuple[list[Spread], int, float]:
    """Variance between trainings, the fewest runs of a row, and the share of the combination that borrows its variance.

    A training moves all cells of its base model together, so that cells of one model with the same runs vary as one.
    Replicates are the runs where there are some, else seeds. What has one run takes the variance per squared weight of
    what has several; where nothing has several, nothing is known.
    """
    groups: dict[tuple[str, frozenset[Run]], dict[Cell, float]] = defaultdict(lambda: defaultdict(float))
    for part in parts:
        rows: dict[Cell, list[Cell]] = defaultdict(list)
        for cell, weight in part.items():
            if weight:
                rows[runs.row(cell)].append(cell)
        for row, cells in rows.items():
            group = groups[row.model, frozenset(map(runs.run, cells))]
            for cell in cells:
                group[cell] += part[cell]
    known: list[tuple[Spread, float]] = []
    single = total = 0.0
    fewest = math.inf
    alone = []
    for (_, group_runs), weights in groups.items():
        size = sum(map(abs, weights.values()))
        replicates = {run.replicate for run in group_runs}
        moved: dict[int | Run, float] = defaultdict(float)
        for cell, weight in weights.items():
            run = runs.run(cell)
            moved[run.replicate if len(replicates) > 1 else run] += weight * scores[cell]
        count = len(moved)
        fewest = min(fewest, count)
        total += size
        if count > 1:
            # each run's share times their number is what the combination would be by that run alone
            variance = float(np.var([count * value for value in moved.values()], ddof=1)) / count
            known.append((Spread(variance, count - 1), size))
        else:
            alone.append(size)
            single += size
    if not known:
        return [], 1, 1.0
    spreads = [spread for spread, _ in known]
    if alone:
        df = sum(spread.df for spread in spreads)
        per_weight = sum(s.df * s.variance * (s.df + 1) / size**2 for s, size in known) / df
        spreads.append(Spread(per_weight * sum(size**2 for size in alone), df))
    return spreads, int(fewest), single / total


def difference(pairs: Sequence[WeightedPair]) -> Weights:
    """The combination that weighted differences of cells make."""
    weights: dict[Cell, float] = defaultdict(float)
    for first, second, weight in pairs:
        weights[first] += weight
        weights[second] -= weight
    return dict(weights)


def mean_of(cells: Sequence[Cell]) -> Weights:
    """Mean over datasets of the mean over each dataset's cells; one named twice counts twice."""
    datasets: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        datasets[cell.dataset].append(cell)
    weights: dict[Cell, float] = defaultdict(float)
    for own in datasets.values():
        for cell in own:
            weights[cell] += 1 / len(datasets) / len(own)
    return dict(weights)
