"""All cells' answers in one file, each beside what the passages that it was given hold.

The file, `tables/answers.parquet`, has a row per answer of a cell that is done, those of a cell together, in the order
of the cell's questions. Its columns are those of `COLUMNS` below.
"""

import gc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from retrotune.report.gathering.collect import Result, load_results
from retrotune.report.gathering.rows import grouped
from retrotune.runtime.files import read_parquet_parts, write_parquet_parts
from retrotune.runtime.log import logger, progress
from retrotune.scoring.given import GivenPassages
from retrotune.scoring.sheets import cell_of
from retrotune.study.cells import COORDINATES, Cell
from retrotune.study.paths import Paths
from retrotune.study.records import read_predictions
from retrotune.study.stages import CollectAnswersParams

COLUMNS = {
    **dict.fromkeys(COORDINATES, "the cell"),
    "question_id": "the question",
    "prediction": "the answer that was scored",
    "text": "what the model generated, where that is something else; else null",
    "in_prompt": "ranks of the passages in the prompt, from 0",
    "in_encoder": "ranks of the passages that RETRO's encoder read",
    "held": "whether one of these holds an answer (DPR's string match); null where no passage can",
    "copied": "whether the answer's tokens follow each other in one of these",
    "cut": "tokens of passages that did not fit and were cut",
    "at_cap": "whether the answer is as long as it may be; null where its length was not recorded",
}
"""Columns of the file. No passage can hold an answer that is a summary, or of a cell that is given none."""


def collect_answers(params: CollectAnswersParams, paths: Paths, results_json: str | Path, out: str | Path) -> None:
    """Write the answers of the cells that are done, as `results_json` of `collect_metrics` has them, to `out`.

    Raises `ResultError` for a cell that was given passages which its neighbor cache does not have.
    """
    done = [result for result in load_results(results_json) if result.primary is not None]
    write_parquet_parts(out, _tables(params, paths, done), _schema())
    logger.info("collected the answers of %d cells", len(done))


def load_answers(path: str | Path, columns: Sequence[str]) -> dict[Cell, Any]:
    """Some columns of the answers of each cell, as an arrow table: a row per question, in the order of its file."""
    tables = read_parquet_parts(path, [*COORDINATES, *columns])
    return {cell_of(table): table.select(list(columns)) for table in tables if len(table)}


def _tables(params: CollectAnswersParams, paths: Paths, done: Sequence[Result]) -> Iterator[Any]:
    """A table per cell; passages are loaded once for the cells that share them."""
    groups = grouped(done, lambda result: (result.dataset, result.retrieval))
    for (dataset, retrieval), members in progress(groups.items(), "cells' answers", len(done), size=_members):
        given = GivenPassages(paths.references(dataset, "test"), paths.neighbors(retrieval, dataset, "test"))
        gc.freeze()  # passages stay, and looking through them again and again took a fifth of the time
        for result in members:
            file = paths.cell(result.cell, "predictions.jsonl")
            yield _table(result.cell, file, given, params.gold[dataset], params.max_new_tokens[dataset])


def _members(group: tuple[Any, Sequence[Result]]) -> int:
    return len(group[1])


def _table(cell: Cell, file: str, given: GivenPassages, gold: bool, max_new_tokens: int) -> Any:
    """The answers of one cell."""
    import pyarrow as pa

    rows = []
    for _, line in read_predictions(file):
        question, said = line.question_id, line.prediction
        in_prompt, in_encoder = given.ranks(question, line.context_ids), given.ranks(question, line.neighbor_ids)
        ranks, passages = in_prompt + in_encoder, given.of(question)
        rows.append(
            (
                question,
                said,
                None if line.text == said else line.text,
                in_prompt,
                in_encoder,
                passages.hold_answer(ranks) if gold and ranks else None,
                passages.hold(ranks, said),
                line.num_truncated_tokens,
                None if line.num_new_tokens is None else line.num_new_tokens >= max_new_tokens,
            )
        )
    schema = _schema()
    coordinates = [[getattr(cell, name)] * len(rows) for name in COORDINATES]
    columns = [*coordinates, *zip(*rows, strict=True)]
    return pa.table([pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)], schema)


def _schema() -> Any:
    import pyarrow as pa

    words, ranks = pa.dictionary(pa.int32(), pa.string()), pa.list_(pa.int16())
    kinds: dict[str, Any] = {
        **dict.fromkeys(COORDINATES, words),
        "seed": pa.int64(),
        **dict.fromkeys(("question_id", "prediction", "text"), pa.string()),
        **dict.fromkeys(("in_prompt", "in_encoder"), ranks),
        **dict.fromkeys(("held", "copied", "at_cap"), pa.bool_()),
        "cut": pa.int32(),
    }
    return pa.schema([(name, kinds[name]) for name in COLUMNS])
