"""The explorer's data: questions, passages and answers as texts in blocks, scores and marks as typed arrays.

The page holds `questions-D-B`, `passages-D-R-B` and `answers-C-B`, blocks B of a dataset D, a retrieval R and a cell C,
and `numbers-C`: float32 scores, uint32 tokens cut and uint8 marks of each question.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrotune.data.datasets.base import Example, Reference
from retrotune.data.scores import title_of
from retrotune.errors import ResultError
from retrotune.preparing.examples import load_examples, load_references
from retrotune.report.gathering.answers import load_answers
from retrotune.report.gathering.collect import Result
from retrotune.report.gathering.rows import grouped, unique
from retrotune.report.judging.quadrants import RIGHT
from retrotune.report.page.embedding import BLOCK, blocks, bytes_element, json_element
from retrotune.retrieval.caches.questions import load_neighbors
from retrotune.scoring.sheets import Sheet
from retrotune.study.cells import Cell
from retrotune.study.paths import Paths

LARGEST = 100_000
"""Predictions that the page holds: more would make it slow to open, and too large to send."""
HELD_KNOWN, HELD, COPIED, CAP_KNOWN, AT_CAP = 1, 2, 4, 8, 16
"""Marks of an answer, as explorer.js reads them."""
_ANSWERS = ("question_id", "prediction", "text", "in_prompt", "in_encoder", "held", "copied", "cut", "at_cap")


@dataclass(frozen=True)
class Explored:
    """A dataset as the explorer has it: its cells, and the places of its questions in the sheet of scores."""

    dataset: str
    results: Sequence[Result]
    sheet: Sheet
    places: Sequence[int]

    @property
    def question_ids(self) -> list[str]:
        """The questions, in the order of the sheet."""
        return [self.sheet.question_ids[place] for place in self.places]

    @property
    def retrievals(self) -> list[str]:
        """Retrievals of its cells."""
        return unique(result.retrieval for result in self.results)


def explored(
    results: Sequence[Result], sheets: Mapping[str, Sheet], largest: int = LARGEST
) -> tuple[list[Explored], int]:
    """What the explorer holds of each dataset, and how many predictions there are.

    Where there are more than `largest`, each dataset gets an equal part of them, and keeps the questions on which its
    cells disagree most: those of whose scores the standard deviation is highest.
    """
    groups = grouped([result for result in results if result.primary is not None], lambda result: result.dataset)
    counts = {name: len(members) * len(sheets[name].question_ids) for name, members in groups.items()}
    total = sum(counts.values())
    shares = _shares(counts, largest)
    found = []
    for name, members in groups.items():
        sheet, questions = sheets[name], len(sheets[name].question_ids)
        places = list(range(questions))
        if (kept := max(1, shares[name] // len(members))) < questions:
            scores_CQ = np.stack([sheet.of_questions(result.cell) for result in members])
            order = np.argsort(-scores_CQ.std(axis=0), kind="stable")
            places = sorted(order[:kept].tolist())
        found.append(Explored(name, members, sheet, places))
    return found, total


def _shares(counts: Mapping[str, int], largest: int) -> dict[str, int]:
    """An equal part of `largest` for each; what a small one leaves goes to the others."""
    shares: dict[str, int] = {}
    left = largest
    for place, name in enumerate(sorted(counts, key=lambda name: counts[name])):
        shares[name] = min(counts[name], left // (len(counts) - place))
        left -= shares[name]
    return shares


def explorer_elements(
    paths: Paths, results: Sequence[Result], sheets: Mapping[str, Sheet], answers: str | Path, largest: int = LARGEST
) -> Iterator[str]:
    """All elements of the explorer, its index first.

    Raises `ResultError` if a cell's answers are missing or are not to the questions that it has scores of.
    """
    datasets, total = explored(results, sheets, largest)
    yield json_element("explorer-index", _index(datasets, total))
    tables = load_answers(answers, _ANSWERS)
    cell_number = 0
    for number, dataset in enumerate(datasets):
        examples = load_examples(paths.examples(dataset.dataset, "test"))
        asked = {example.question_id: example for example in examples}
        references = load_references(paths.references(dataset.dataset, "test"))
        ids = dataset.question_ids
        yield from blocks(f"questions-{number}", [_question(asked[name], references[name]) for name in ids])
        shown: dict[str, int] = {}
        for result in dataset.results:
            rows = _rows(tables.get(result.cell), result.cell, ids)
            most = max((rank + 1 for row in rows for place in (3, 4) for rank in row[place]), default=0)
            shown[result.retrieval] = max(most, shown.get(result.retrieval, 0))
            scores = dataset.sheet.of_questions(result.cell)[list(dataset.places)]
            yield bytes_element(f"numbers-{cell_number}", _numbers(scores, rows))
            yield from blocks(f"answers-{cell_number}", [row[1:5] for row in rows])
            cell_number += 1
        for place, retrieval in enumerate(dataset.retrievals):
            found = load_neighbors(paths.neighbors(retrieval, dataset.dataset, "test")) if shown[retrieval] else {}
            passages = [
                [[one.passage_id, one.title, one.text] for one in found.get(name, ())[: shown[retrieval]]]
                for name in ids
            ]
            yield from blocks(f"passages-{number}-{place}", passages)


def _index(datasets: Sequence[Explored], total: int) -> dict[str, Any]:
    """What the page must know before any block is opened."""
    held = sum(len(dataset.results) * len(dataset.places) for dataset in datasets)
    notes = []
    if held < total:
        notes.append(
            f"The explorer holds {held:,} of {total:,} predictions: of each dataset the questions on which cells "
            "disagree most. All numbers of this page rest on all predictions."
        )
    models = {result.model for dataset in datasets for result in dataset.results}
    return {
        "block": BLOCK,
        "right": RIGHT,
        "notes": notes,
        "datasets": [
            {
                "name": dataset.dataset,
                "title": title_of(dataset.sheet.metric),
                "questions": len(dataset.places),
                "total": len(dataset.sheet.question_ids),
                "retrievals": dataset.retrievals,
            }
            for dataset in datasets
        ],
        "cells": [
            {
                "name": result.name,
                "label": _label(result, len(models) > 1, len(dataset.retrievals) > 1),
                "dataset": number,
                "retrieval": result.retrieval,
            }
            for number, dataset in enumerate(datasets)
            for result in dataset.results
        ],
    }


def _label(result: Result, several_models: bool, several_retrievals: bool) -> str:
    """A cell among those of its dataset."""
    parts = [result.model] if several_models else []
    parts += [result.method, *([result.retrieval] if several_retrievals else []), f"seed {result.seed}"]
    return ", ".join(parts)


def _question(asked: Example, reference: Reference) -> dict[str, Any]:
    return {
        "id": asked.question_id,
        "question": asked.question,
        "doc_id": asked.doc_id,
        "options": list(asked.options),
        "answers": list(reference.answers),
        "types": unique(kind for kind in reference.types if kind),
    }


def _rows(table: Any, cell: Cell, ids: Sequence[str]) -> list[tuple[Any, ...]]:
    """A cell's answers to these questions: values of `_ANSWERS`."""
    if table is None:
        raise ResultError(f"{cell.name}: done, but not in tables/answers.parquet; run snakemake, which collects it")
    columns = (table[name].to_pylist() for name in _ANSWERS)
    found = {values[0]: values for values in zip(*columns, strict=True)}
    missing = [name for name in ids if name not in found]
    if missing:
        raise ResultError(
            f"{cell.name}: no answer to {missing[0]!r} in tables/answers.parquet, which it has a score of; run "
            "snakemake, which collects it again"
        )
    return [found[name] for name in ids]


def _numbers(scores_Q: Any, rows: Sequence[Sequence[Any]]) -> bytes:
    """Scores, tokens cut and marks, as the page's typed arrays have them."""
    marks = [
        (HELD_KNOWN * (held is not None) + HELD * bool(held) + COPIED * bool(copied))
        + (CAP_KNOWN * (at_cap is not None) + AT_CAP * bool(at_cap))
        for *_, held, copied, _, at_cap in rows
    ]
    parts = (
        np.asarray(scores_Q, dtype="<f4"),
        np.array([row[7] for row in rows], dtype="<u4"),
        np.array(marks, dtype="u1"),
    )
    return b"".join(part.tobytes() for part in parts)
