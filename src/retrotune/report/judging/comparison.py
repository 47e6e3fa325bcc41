"""Two arms on the same questions: `retrotune compare`.

An arm is a cell, or all cells of a selection. Differences are paired: cell by cell on what the two selections share,
question by question, and documents are kept together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from retrotune.data.scores import METRICS, title_of
from retrotune.errors import ConfigError, ResultError
from retrotune.report.gathering.collect import Result, runs_of
from retrotune.report.gathering.matching import matched
from retrotune.report.gathering.rows import AVERAGE, unique
from retrotune.report.tables.render import to_text
from retrotune.report.tables.table import Table, Value
from retrotune.scoring.contrasts import Runs, difference, mean_of, outcome
from retrotune.scoring.sheets import Sheet, make_sheet, read_cell_scores
from retrotune.scoring.statistics import holm
from retrotune.study.cells import COORDINATES
from retrotune.study.config import Config, nearest
from retrotune.study.paths import Paths, find_cell
from retrotune.study.records import read_predictions

ATTRIBUTES = (*COORDINATES, "family", "size", "method_kind")
_TIE = 1e-6

Pair = tuple[Result, Result]


def _attribute(result: Result, name: str) -> str:
    return str(result.kind if name == "method_kind" else getattr(result, name))


@dataclass(frozen=True)
class Arm:
    """What one side of a comparison selects: values by attribute, as text."""

    text: str
    wanted: Mapping[str, tuple[str, ...]]

    @classmethod
    def parse(cls, text: str, config: Config, results: Sequence[Result]) -> "Arm":
        """A cell's name, or `ATTRIBUTE=VALUE[+VALUE...],...`; `ConfigError` names what is not known."""
        if "=" not in text:
            cell = find_cell(config, text)
            return cls(text, {name: (str(getattr(cell, name)),) for name in COORDINATES})
        wanted: dict[str, tuple[str, ...]] = {}
        for part in text.split(","):
            name, equals, values = part.partition("=")
            if not equals or name not in ATTRIBUTES:
                raise ConfigError(f"{text}: {part!r} is no ATTRIBUTE=VALUE; {nearest(name, list(ATTRIBUTES))}")
            if name in wanted:
                raise ConfigError(f"{text}: {name} is given twice; write {name}=ONE+OTHER for several values")
            known = unique(_attribute(result, name) for result in results)
            wanted[name] = tuple(values.split("+"))
            for value in wanted[name]:
                if value not in known:
                    raise ConfigError(f"{text}: {name} {value!r} is not in the study; {nearest(value, known)}")
        return cls(text, wanted)

    def selects(self, result: Result) -> bool:
        """Whether a result belongs to the arm."""
        return all(_attribute(result, name) in values for name, values in self.wanted.items())


@dataclass(frozen=True)
class Line:
    """A dataset's comparison, or that of all of them; scores, differences and bounds in points."""

    dataset: str
    metric: str
    pairs: int
    questions: int
    documents: int
    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    wins: int
    ties: int
    losses: int
    detectable: float | None
    num_runs: int


@dataclass(frozen=True)
class Comparison:
    """Two arms: a line per dataset and their average, and the questions whose scores differ most."""

    first: str
    second: str
    lines: list[Line]
    changed: list[dict[str, Any]]
    notes: list[str]


def compare(
    config: Config,
    results: Sequence[Result],
    first: str,
    second: str,
    common: bool = False,
    num_questions: int = 5,
) -> Comparison:
    """Compare two arms of a study on the questions that both answered.

    `common`: cells that answered different questions are compared on those in common. Raises `ConfigError` for arms
    that select nothing, or the same, and `ResultError` where no pair of cells is done.
    """
    arms = [Arm.parse(text, config, results) for text in (first, second)]
    names = [name for name in ATTRIBUTES if arms[0].wanted.get(name) != arms[1].wanted.get(name)]
    if not names:
        raise ConfigError(f"{first} and {second} select the same cells: name two arms that differ")
    if "dataset" in names:
        raise ConfigError(f"{first} and {second} answer different questions: name the same datasets in both")
    sides = [[result for result in results if arm.selects(result)] for arm in arms]
    for arm, side in zip(arms, sides, strict=True):
        if not side:
            raise ConfigError(f"{arm.text}: no cell of the study is all of that")
    runs = runs_of(results)
    everything = [
        (a, b)
        for firsts, seconds in matched(sides[0], sides[1], names, runs)
        for a in firsts
        for b in seconds
        if a.cell != b.cell
    ]
    if not everything:
        raise ConfigError(
            f"{first} and {second}: no cell of one has a counterpart in the other that differs in {', '.join(names)} "
            "alone"
        )
    pairs = [(a, b) for a, b in everything if a.primary is not None and b.primary is not None]
    waiting = unique(side.name for pair in everything for side in pair if side.primary is None)
    if not pairs:
        raise ResultError(f"no pair of {first} and {second} is done; missing: {', '.join(waiting[:5])}")
    notes = []
    if waiting:
        notes.append(
            f"{len(everything) - len(pairs)} of {len(everything)} pairs are left out, as cells are not done: "
            + ", ".join(waiting)
        )
    sheets = _sheets(Paths.of(config), pairs, common, notes)
    lines = _lines(sheets, pairs, runs, config.evaluation.resamples)
    if lines[0].num_runs == 1:
        notes.append("One run per cell: how much scores vary between trainings is not in these intervals and p-values.")
    return Comparison(first, second, lines, _changed(Paths.of(config), sheets, pairs, num_questions), notes)


def _sheets(paths: Paths, pairs: Sequence[Pair], common: bool, notes: list[str]) -> dict[str, Sheet]:
    """Scores of the paired cells by dataset."""
    sheets = {}
    for dataset in unique(a.dataset for a, _ in pairs):
        metric = next(a.metric for a, _ in pairs if a.dataset == dataset)
        cells = unique(side.cell for pair in pairs for side in pair if side.dataset == dataset)
        rows = {cell: read_cell_scores(paths.cell(cell, "scores.jsonl"), METRICS[metric].parts) for cell in cells}
        sheets[dataset] = sheet = make_sheet(dataset, metric, rows, common)
        most = max(len(ids) for ids, _, _ in rows.values())
        if len(sheet.question_ids) < most:
            notes.append(f"{dataset}: compared on the {len(sheet.question_ids)} questions in common of up to {most}.")
    return sheets


def _lines(sheets: Mapping[str, Sheet], pairs: Sequence[Pair], runs: Runs, resamples: int) -> list[Line]:
    """A line per dataset and, of several, one of their average; Holm's p is over all of them."""
    by_dataset = {dataset: [pair for pair in pairs if pair[0].dataset == dataset] for dataset in sheets}
    lines = [
        _line(dataset, title_of(sheet.metric), {dataset: by_dataset[dataset]}, sheets, runs, resamples)
        for dataset, sheet in sheets.items()
    ]
    if len(lines) > 1:
        lines.append(_line(AVERAGE, "mean of all", by_dataset, sheets, runs, resamples))
    adjusted = holm({line.dataset: line.p for line in lines if line.p is not None})
    return [replace(line, p_holm=adjusted[line.dataset][0]) if line.dataset in adjusted else line for line in lines]


def _line(
    name: str,
    metric: str,
    by_dataset: Mapping[str, Sequence[Pair]],
    sheets: Mapping[str, Sheet],
    runs: Runs,
    resamples: int,
) -> Line:
    """The mean over datasets of the mean difference of each one's pairs."""
    weighted = [
        (first.cell, second.cell, 1 / len(by_dataset) / len(pairs))
        for pairs in by_dataset.values()
        for first, second in pairs
    ]
    found = outcome(sheets, [difference(weighted)], runs, pairs=weighted, resamples=resamples)
    first, second = (
        outcome(sheets, [mean_of([pair[side].cell for pairs in by_dataset.values() for pair in pairs])], runs)
        for side in (0, 1)
    )
    moved_Q = np.concatenate([_per_question(sheets[dataset], pairs) for dataset, pairs in by_dataset.items()])
    wins, losses = int((moved_Q > _TIE).sum()), int((moved_Q < -_TIE).sum())
    estimate = found.estimate
    low, high = estimate.interval() or (None, None)
    return Line(
        dataset=name,
        metric=metric,
        pairs=len(weighted),
        questions=estimate.num_questions,
        documents=estimate.num_clusters,
        first=first.estimate.value,
        second=second.estimate.value,
        difference=estimate.value,
        low=low,
        high=high,
        p=found.p,
        p_holm=None,
        wins=wins,
        ties=len(moved_Q) - wins - losses,
        losses=losses,
        detectable=estimate.detectable(),
        num_runs=found.num_runs,
    )


def _per_question(sheet: Sheet, pairs: Sequence[Pair]) -> Any:
    """Mean difference of each question over pairs."""
    return np.mean([sheet.of_questions(a.cell) - sheet.of_questions(b.cell) for a, b in pairs], axis=0)


def _changed(paths: Paths, sheets: Mapping[str, Sheet], pairs: Sequence[Pair], most: int) -> list[dict[str, Any]]:
    """The questions of each dataset whose scores differ most, with what the first pair of cells answered."""
    found = []
    for dataset, sheet in sheets.items():
        own = [pair for pair in pairs if pair[0].dataset == dataset]
        moved_Q = _per_question(sheet, own)
        places = [place for place in np.argsort(-np.abs(moved_Q), kind="stable")[:most] if abs(moved_Q[place]) > _TIE]
        wanted = {sheet.question_ids[place] for place in places}
        said = [
            {
                line.question_id: line
                for _, line in read_predictions(paths.cell(side.cell, "predictions.jsonl"))
                if line.question_id in wanted
            }
            for side in own[0]
        ]
        for place in places:
            question = sheet.question_ids[place]
            first, second = (lines[question] for lines in said)
            found.append(
                {
                    "dataset": dataset,
                    "question_id": question,
                    "question": first.question,
                    "difference": float(moved_Q[place]),
                    "first": first.prediction,
                    "second": second.prediction,
                    "cells": [side.name for side in own[0]],
                }
            )
    return found


def as_text(comparison: Comparison) -> str:
    """The comparison as the terminal shows it."""
    rows: list[list[Value]] = []
    for line in comparison.lines:
        interval = "unknown" if line.low is None else f"[{line.low:+.1f}, {line.high:+.1f}]"
        counted = f"{line.questions}" + (f" in {line.documents}" if line.documents != line.questions else "")
        compared = f"{line.wins} / {line.ties} / {line.losses}"
        rows.append(
            [
                f"{line.dataset} ({line.metric})",
                counted,
                line.first,
                line.second,
                f"{line.difference:+.1f} {interval}",
                _p(line.p),
                _p(line.p_holm),
                compared,
                line.detectable,
            ]
        )
    table = Table(
        title="A against B on the same questions",
        columns=["Dataset", "Questions", "A", "B", "A - B", "p", "p (Holm)", "Wins / ties / losses", "Detectable"],
        rows=rows,
        num_labels=1,
        formats=[".1f"] * 8,
        notes=[
            "A - B in points with its 95 % interval. Questions about one document stay together: `150 in 30` are 150 "
            "questions in 30 documents. p: permutation of the arms within documents, or Student's t over several runs. "
            "Wins: questions that A answers better. Detectable: the difference that so many "
            "questions would have shown with 80 % power.",
            *comparison.notes,
        ],
    )
    lines = [f"A: {comparison.first}\nB: {comparison.second}\n", to_text(table)]
    for item in comparison.changed:
        question = item["question"] or item["question_id"]
        lines.append(f"{item['dataset']} {item['question_id']} ({item['difference']:+.1f}): {question}")
        lines.append(f"  A: {item['first']!r}\n  B: {item['second']!r}")
    return "\n".join(lines)


def _p(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}" if value >= 0.0001 else "< 0.0001"
