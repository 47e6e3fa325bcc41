"""What results say: the score of a row with its interval, its average over datasets, and differences of rows.

Runs of a row are averaged, and their spread is part of the interval (`scoring.contrasts`). No number is filled in.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from retrotune.report.gathering.collect import Result, load_results, load_sheets, runs_of
from retrotune.report.gathering.rows import grouped, unique
from retrotune.report.tables.table import Measured, Value
from retrotune.scoring.contrasts import Outcome, Runs, Weights, mean_of, outcome
from retrotune.scoring.sheets import Sheet
from retrotune.scoring.statistics import cluster_of
from retrotune.study.cells import Cell

STATES = ("failed", "damaged", "outdated", "running", "stopped", "missing")
"""Of cells without a score, what matters first."""


@dataclass(frozen=True)
class Measures:
    """A study's results, and the scores of each question behind them."""

    results: Sequence[Result]
    sheets: Mapping[str, Sheet]

    @classmethod
    def load(cls, results_json: str | Path, scores_parquet: str | Path) -> "Measures":
        """From what `collect_metrics` wrote."""
        results = load_results(results_json)
        return cls(results, load_sheets(scores_parquet, results))

    @cached_property
    def runs(self) -> Runs:
        """Which results are runs of one row."""
        return runs_of(self.results)

    @cached_property
    def datasets(self) -> list[str]:
        """Datasets of the study, in the order of the config."""
        return unique(result.dataset for result in self.results)

    def num_questions(self, dataset: str) -> int | None:
        """Test questions that cells of a dataset answered; None if no cell has a score."""
        return len(self.sheets[dataset].question_ids) if dataset in self.sheets else None

    def num_documents(self, dataset: str) -> int | None:
        """Documents that the questions are about; None for questions without documents of their own."""
        sheet = self.sheets.get(dataset)
        if sheet is None or all(
            cluster == cluster_of(question, None)
            for question, cluster in zip(sheet.question_ids, sheet.clusters, strict=True)
        ):
            return None
        return len(set(sheet.clusters))

    def score(self, results: Iterable[Result]) -> Outcome | None:
        """Mean over runs of one row and dataset; None if no run has a score."""
        cells = scored(results)
        return outcome(self.sheets, [mean_of(cells)], self.runs) if cells else None

    def average(self, results: Iterable[Result]) -> Outcome | None:
        """Mean over datasets of a row's scores; None unless it has a score on every dataset of the study."""
        cells = self.averaged(results)
        return outcome(self.sheets, [mean_of(cells)], self.runs) if cells else None

    def averaged(self, results: Iterable[Result]) -> list[Cell]:
        """Cells of a row's average; none unless it has a score on every dataset of the study."""
        cells = scored(results)
        return cells if {cell.dataset for cell in cells} == set(self.datasets) else []

    def value(self, results: Sequence[Result]) -> Value:
        """A row's score on a dataset as a table shows it, or the word `failed` where a failure left none."""
        found = self.score(results)
        return state_of(results) if found is None and state_of(results) == "failed" else measured(found)


def scored(results: Iterable[Result]) -> list[Cell]:
    """Cells of the results that have a score."""
    return [result.cell for result in results if result.primary is not None]


def by_dataset(results: Iterable[Result]) -> dict[str, list[Result]]:
    """A row's runs on each dataset."""
    return grouped(results, lambda result: result.dataset)


def state_of(results: Sequence[Result]) -> str:
    """One word for the state of a row's cells: done, partial (some runs have a score), or why there is none."""
    states = [result.status for result in results if result.primary is None]
    if not states:
        return "done" if results else "missing"
    return "partial" if len(states) < len(results) else min(states, key=lambda s: (*STATES, s).index(s))


def measured(found: Outcome | None) -> Measured | None:
    """A number with its interval."""
    return None if found is None else Measured(found.estimate.value, *(found.estimate.interval() or (None, None)))


def minus(first: Weights, second: Weights) -> Weights:
    """The difference of two combinations of cells."""
    return {cell: first.get(cell, 0.0) - second.get(cell, 0.0) for cell in dict.fromkeys([*first, *second])}
