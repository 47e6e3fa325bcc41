"""Scores per question of a study's cells: one file, and in memory one sheet per dataset.

The file, `tables/scores.parquet`, has a row per cell and question: the cell's coordinates, question_id, doc_id, type,
and a column per part, empty where a dataset has no such part.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from retrotune.data.scores import METRICS, combine, parts_of
from retrotune.errors import ResultError
from retrotune.runtime.files import read_parquet_parts, write_parquet_parts
from retrotune.scoring.statistics import Array, Stratum, cluster_of
from retrotune.study.cells import COORDINATES, Cell
from retrotune.study.records import read_scores

_QUESTION = ("question_id", "doc_id", "type")


@dataclass(frozen=True)
class Sheet:
    """Scores of cells on the same questions of one dataset by one metric: cells x questions x parts of the metric."""

    dataset: str
    metric: str
    cells: tuple[Cell, ...]
    question_ids: tuple[str, ...]
    clusters: tuple[str, ...]
    parts_CQP: Array

    @cached_property
    def place_of(self) -> dict[Cell, int]:
        """Place of each cell."""
        return {cell: place for place, cell in enumerate(self.cells)}

    @cached_property
    def stratum(self) -> Stratum:
        """All cells' scores summed by cluster, for `scoring.statistics`."""
        return Stratum.of(self.parts_CQP, self.clusters, METRICS[self.metric].combination)

    def of_questions(self, cell: Cell) -> Array:
        """The metric of each question of a cell."""
        parts_QP = self.parts_CQP[self.place_of[cell]]
        return np.asarray(combine(METRICS[self.metric].combination, list(parts_QP.T)))


def make_sheet(
    dataset: str,
    metric: str,
    rows: Mapping[Cell, tuple[Sequence[str], Sequence[str | None], Array]],
    common: bool = False,
) -> Sheet:
    """A sheet of cells' (question ids, doc ids, questions x parts).

    `ResultError` if cells have different questions, unless only the `common` ones are asked for; also if there is none.
    """
    first, *others = rows
    kept = list(rows[first][0])
    own = {question: place for place, question in enumerate(kept)}
    orders = {  # cells of one study mostly have one order, which is made once
        cell: own if ids == kept else {question: place for place, question in enumerate(ids)}
        for cell, (ids, _, _) in rows.items()
    }
    for cell in others:
        if orders[cell].keys() == orders[first].keys():
            continue
        if not common:
            shared = len(orders[cell].keys() & orders[first].keys())
            raise ResultError(
                f"{cell.name} and {first.name} answered different questions of {dataset}: {len(orders[cell])} and "
                f"{len(orders[first])}, {shared} of them in common; run the older one again, or compare on the common "
                "questions"
            )
        kept = [question for question in kept if question in orders[cell]]
    if not kept:
        raise ResultError(f"{', '.join(cell.name for cell in rows)}: no question of {dataset} in common")
    docs = dict(zip(*rows[first][:2], strict=True))
    places = {cell: [orders[cell][question] for question in kept] for cell in rows}
    return Sheet(
        dataset,
        metric,
        tuple(rows),
        tuple(kept),
        tuple(cluster_of(question, docs[question]) for question in kept),
        np.stack([parts_QP[places[cell]] for cell, (_, _, parts_QP) in rows.items()]),
    )


def read_cell_scores(path: str | Path, parts: Sequence[str]) -> tuple[Sequence[str], Sequence[str | None], Array]:
    """Question ids, document ids and the named parts, questions x parts, of one cell's `scores.jsonl`.

    `ResultError` if a part is not in it: another study scored the cell by other metrics.
    """
    records = read_scores(path)
    try:
        values = [[record.scores[part] for part in parts] for record in records]
    except KeyError as error:
        raise ResultError(f"{path}: no scores by {error.args[0]}; run snakemake, which scores it again") from error
    ids, docs = [record.question_id for record in records], [record.doc_id for record in records]
    return ids, docs, np.array(values, dtype=np.float64).reshape(len(records), len(parts))


def write_scores(path: str | Path, scores: Iterable[tuple[Cell, str | Path]], metrics: Iterable[str]) -> None:
    """Gather the `scores.jsonl` of cells in one parquet file, a part of it per cell."""
    import pyarrow as pa

    parts = parts_of(list(metrics))
    words = pa.dictionary(pa.int32(), pa.string())
    schema = pa.schema(
        [
            *((name, pa.int64() if name == "seed" else words) for name in COORDINATES),
            ("question_id", pa.string()),
            ("doc_id", pa.string()),
            ("type", words),
            *((part, pa.float32()) for part in parts),
        ]
    )

    def table(cell: Cell, file: str | Path) -> Any:
        records = read_scores(file)
        columns: dict[str, list[Any]] = {name: [getattr(cell, name)] * len(records) for name in COORDINATES}
        columns |= {name: [getattr(record, name) for record in records] for name in _QUESTION}
        columns |= {part: [record.scores.get(part) for record in records] for part in parts}
        return pa.table({name: pa.array(columns[name], schema.field(name).type) for name in schema.names}, schema)

    write_parquet_parts(path, (table(cell, file) for cell, file in scores), schema)


def cell_of(table: Any) -> Cell:
    """The cell of a part of a file that has a part per cell."""
    return Cell(**{name: table[name][0].as_py() for name in COORDINATES})


def read_sheets(path: str | Path, metrics: Mapping[str, str], cells: Sequence[Cell]) -> dict[str, Sheet]:
    """A sheet per dataset of those `cells` that the file holds; `metrics` names the metric of each dataset."""
    wanted = set(cells)
    rows: dict[str, dict[Cell, tuple[Sequence[str], Sequence[str | None], Array]]] = {}
    columns = [*COORDINATES, "question_id", "doc_id", *parts_of(list(metrics.values()))]
    for table in read_parquet_parts(path, columns):
        cell = cell_of(table)
        if cell not in wanted:
            continue
        values = [table[part].to_numpy() for part in METRICS[metrics[cell.dataset]].parts]
        parts_QP = np.column_stack(values)
        if np.isnan(parts_QP).any():
            raise ResultError(f"{path}: {cell.name} lacks scores for {metrics[cell.dataset]}; run snakemake again")
        ids, docs = table["question_id"].to_pylist(), table["doc_id"].to_pylist()
        rows.setdefault(cell.dataset, {})[cell] = ids, docs, parts_QP
    order = {cell: place for place, cell in enumerate(cells)}
    return {
        dataset: make_sheet(dataset, metrics[dataset], dict(sorted(found.items(), key=lambda item: order[item[0]])))
        for dataset, found in rows.items()
    }
