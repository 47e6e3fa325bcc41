"""What patterns of trouble are looked for in, and what a pattern that was found says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from retrotune.report.gathering.collect import Result
from retrotune.report.gathering.matching import matched
from retrotune.report.judging.quadrants import Quadrants, share, total
from retrotune.report.tables.measures import Measures
from retrotune.scoring.contrasts import difference, outcome
from retrotune.study.cells import Cell

NAMED = 3
"""Cells that a finding names; it counts the rest."""
BROKEN, LOST, UNSURE = 3.0, 2.0, 1.0
"""Weights: scores say little of the model; points are lost on the way; scores are right and say little."""


@dataclass(frozen=True)
class Finding:
    """A pattern that some cells show: their names, the worst first; the evidence in numbers; what to do.

    `weight` is that of the pattern, and below 1 the share of the cells looked at that show it.
    """

    pattern: str
    cells: tuple[str, ...]
    says: str
    evidence: Mapping[str, float]
    remedy: str
    weight: float


@dataclass(frozen=True)
class Evidence:
    """What patterns are looked for in: results with a score, and what is known of each.

    `losses` are those of training logs, line by line, of the cells that have one. `effect` is in points.
    """

    measures: Measures
    quadrants: Mapping[Cell, Quadrants]
    losses: Mapping[Cell, Sequence[float]]
    effect: float

    @cached_property
    def done(self) -> list[Result]:
        """Results with a score."""
        return [result for result in self.measures.results if result.primary is not None]

    @cached_property
    def trained(self) -> list[Result]:
        """Those of them that were trained."""
        return [result for result in self.done if result.trained]


@dataclass(frozen=True)
class Contrast:
    """The runs of a row against those of another on the same questions; points with the bounds of 95 %."""

    first: Sequence[Result]
    second: Sequence[Result]
    value: float
    low: float
    high: float


def finding_of(
    pattern: str,
    cells: Sequence[Result],
    of: int,
    seriousness: float,
    says: str,
    remedy: str,
    evidence: Mapping[str, float],
) -> Finding:
    """A finding of some cells, the worst first, of the `of` cells that were looked at; `evidence` is of the worst."""
    names = [result.name for result in cells]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    said = f"{says}, in {len(names)} of {of} cells: {', '.join(names[:NAMED])}{more}."
    return Finding(pattern, tuple(names), said, dict(evidence), remedy, seriousness + 0.99 * len(names) / of)


def contrasts_of(
    evidence: Evidence, first: Sequence[Result], second: Sequence[Result], changed: Sequence[str]
) -> list[Contrast]:
    """Each row of `first` against each matched row of `second`; those whose spread is unknown are left out."""
    measures = evidence.measures
    rows: dict[tuple[Cell, Cell], list[tuple[Result, Result]]] = {}
    for firsts, seconds in matched(first, second, changed, measures.runs):
        for a in firsts:
            for b in seconds:
                rows.setdefault((measures.runs.row(a.cell), measures.runs.row(b.cell)), []).append((a, b))
    contrasts = []
    for pairs in rows.values():
        weighted = [(a.cell, b.cell, 1 / len(pairs)) for a, b in pairs]
        estimate = outcome(measures.sheets, [difference(weighted)], measures.runs, pairs=weighted).estimate
        if (bounds := estimate.interval()) is not None:
            first, second = ([pair[side] for pair in pairs] for side in (0, 1))
            contrasts.append(Contrast(first, second, estimate.value, *bounds))
    return contrasts


def place_of(contrast: Contrast) -> tuple[str, ...]:
    """Where a contrast was made: model, dataset, retrieval."""
    first = contrast.first[0]
    return first.original, first.dataset, first.retrieval


def total_of(evidence: Evidence, results: Sequence[Result]) -> Quadrants:
    """Quadrants of some runs added up."""
    return total([evidence.quadrants[result.cell] for result in results])


def recall_of(found: Quadrants) -> float | None:
    """Percent of the questions whose passages hold an answer, of those where they can."""
    return share(found.there, found.there + found.absent)
