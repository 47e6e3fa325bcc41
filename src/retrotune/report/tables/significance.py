"""Which rows of a table are not significantly worse than the best of their column.

Paired tests on the same questions against the best row, two-sided, Holm over all tests of the table. Rows of single
runs are compared by permutation of the two arms within documents; where rows have several runs, by Student's t, as
resampled questions know nothing of trainings.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from retrotune.report.tables.measures import Measures, minus
from retrotune.report.tables.table import Table
from retrotune.scoring.contrasts import mean_of, outcome, placed_pairs
from retrotune.scoring.resampling import permutation_ps
from retrotune.scoring.statistics import LEVEL, holm
from retrotune.study.cells import Cell


@dataclass(frozen=True)
class Marked:
    """What was done to mark a table: tests, how many of them by permutation, and with how many resamples.

    `too_few` names the documents or questions of datasets that have too few permutations for so many tests.
    """

    tests: int
    permuted: int
    resamples: int
    too_few: tuple[str, ...] = ()


def resamples_for(tests: int, at_least: int) -> int:
    """Resamples with which the smallest p of so many tests is below Holm's bound by a factor of four."""
    return max(at_least, math.ceil(4 * tests / (1 - LEVEL)))


def mark(table: Table, cells_at: Mapping[tuple[int, int], list[Cell]], measures: Measures, resamples: int) -> Marked:
    """Mark the best of each column of `table`, and what is not significantly worse than it.

    `cells_at` are the cells that the numbers of places are means of. Questions about a single document say nothing of
    their spread: such columns, and averages over them, are not tested.
    """
    table.mark_best()
    tests: dict[tuple[int, int], tuple[list[Cell], list[Cell]]] = {}
    alone = {name for name, sheet in measures.sheets.items() if sheet.stratum.num_clusters < 2}
    for column in sorted({column for _, column in table.best}):
        numbers = {
            row: number for row in range(len(table.rows)) if (number := table.number_at(row, column)) is not None
        }
        top = max((row for row in numbers if (row, column) in table.best), key=lambda row: numbers[row])
        others = {(row, column) for row in numbers} - table.best
        if alone & {cell.dataset for cell in cells_at[top, column]}:
            table.untested |= others
            continue
        tests |= {(row, column): (cells_at[top, column], cells_at[row, column]) for row, _ in sorted(others)}
    count = resamples_for(len(tests), resamples)
    single = {
        place: pair
        for place, pair in tests.items()
        if all(len({measures.runs.row(cell) for cell in cells}) == len(cells) for cells in pair)
    }
    p_values = _permuted(single, measures, count)
    for place, (best, other) in tests.items():
        if place not in single:
            found = outcome(measures.sheets, [minus(mean_of(best), mean_of(other))], measures.runs)
            p = found.estimate.p_value()
            p_values[place] = 1.0 if p is None else p
    names = {f"{row} {column}": (row, column) for row, column in tests}
    adjusted = holm({name: p_values[place] for name, place in names.items()})
    table.near |= {names[name] for name, (p, _) in adjusted.items() if p > 1 - LEVEL}
    too_few = tuple(_too_few(sorted(_alone(single), key=measures.datasets.index), len(tests), measures))
    return Marked(len(tests), len(single), count, too_few)


def _alone(tests: Mapping[tuple[int, int], tuple[list[Cell], list[Cell]]]) -> set[str]:
    """Datasets that some test is of alone."""
    datasets = [{cell.dataset for cell in cells} for cells, _ in tests.values()]
    return {name for found in datasets if len(found) == 1 for name in found}


def _too_few(datasets: Sequence[str], tests: int, measures: Measures) -> Iterator[str]:
    """Documents or questions of those datasets on which no permutation test is significant among so many."""
    for name in datasets:
        clusters = measures.sheets[name].stratum.num_clusters
        # swapping all arms gives the effect again with the other sign: two of 2^G permutations are as extreme as any
        if 2 ** (1 - clusters) * tests > 1 - LEVEL:
            yield f"{clusters} {'questions' if measures.num_documents(name) is None else 'documents'} ({name})"


def _permuted(
    tests: Mapping[tuple[int, int], tuple[list[Cell], list[Cell]]], measures: Measures, resamples: int
) -> dict[tuple[int, int], float]:
    """p of each test of single runs; those of one column share their coins, which makes them fast."""
    p_values: dict[tuple[int, int], float] = {}
    for column in sorted({column for _, column in tests}):
        places = [place for place in tests if place[1] == column]
        datasets = sorted({cell.dataset for place in places for cell in tests[place][0]})
        sheets = [measures.sheets[dataset] for dataset in datasets]
        pairs = []
        for place in places:
            first, second = (sorted(cells, key=lambda cell: cell.dataset) for cells in tests[place])
            weighted = [(one, other, 1 / len(first)) for one, other in zip(first, second, strict=True)]
            pairs.append([placed_pairs(sheet, weighted) for sheet in sheets])
        found = permutation_ps([sheet.stratum for sheet in sheets], pairs, resamples)
        p_values |= dict(zip(places, found, strict=True))
    return p_values
