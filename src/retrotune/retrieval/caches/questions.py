"""Neighbor caches of questions: the passages of every question, found once, in blocks, and kept with their texts.

`{cache}.parquet` has a row per question and rank; `{cache}.manifest.json` counts what was found and lists the blocks of
`cache.py` in the folder `{cache}/` that it was made from.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from retrotune.data.datasets.base import Example, Passage
from retrotune.errors import DataError, RetrievalError
from retrotune.preparing.examples import load_examples, with_references
from retrotune.retrieval.blocks import Record
from retrotune.retrieval.caches.results import BLOCK_TEXTS, Search, kept_or_found, read_blocks, relative, summary
from retrotune.retrieval.passages import PassageTable
from retrotune.retrieval.search.finding import Asked
from retrotune.retrieval.search.hits import Hits
from retrotune.retrieval.search.opening import open_finder
from retrotune.runtime.files import read_json, read_parquet, sha256, write_json, write_parquet_parts
from retrotune.runtime.log import Progress, logger
from retrotune.study.stages import CacheNeighborsParams

PASSAGE_COLUMNS = ("passage_id", "title", "text", "score")
PASSAGES_AT_ONCE = 500_000
"""Passages whose texts are in memory while the cache is written; each time all passages are read through."""


def cache_neighbors(
    params: CacheNeighborsParams,
    examples: str | Path,
    passages: str | Path,
    out: str | Path,
    references: str | Path | None = None,
    embeddings: str | Path | None = None,
    index: str | Path | None = None,
    block_texts: int = BLOCK_TEXTS,
) -> None:
    """Find the best `top_k` passages of every question and write them to `out`.

    Open-domain questions search all passages, by BM25 or through `index`. With `own_documents` a question searches its
    own document only, exactly and without an index; BM25 weighs words by all documents of the split. A document with
    fewer than `top_k` passages gives all of them, which is counted and logged. With `continuation` each text goes on
    into the next passage of its document. Gold gives what passages are known to hold the answer, possibly none: only it
    needs `references`.

    Columns of `out`: question_id, rank (from 0), passage_id, title, text, score (higher is better). Blocks of
    `block_texts` questions that an earlier run left are kept if they are whole and made from the same. Raises
    `RetrievalError` if `top_k` exceeds the passages of an open-domain corpus, a document has no passages, or vectors,
    index and passages do not belong together.
    """
    retriever, top_k, own_documents = params.retriever, params.top_k, params.own_documents
    questions = load_questions(examples, references)
    table = PassageTable(passages)
    if not own_documents:
        check_enough(top_k, table)
    search = Search(retriever, top_k, passages, embeddings, None if own_documents else index)
    may_lack = own_documents or retriever.searching.kind == "gold"
    digest = question_search_digest(search, table, own_documents)
    finder = functools.cache(lambda: open_finder(retriever, table, search.embeddings, search.index))

    def find(asked: Sequence[Example]) -> Hits:
        rows, scores = finder().find(questions_asked(table, asked, own_documents), top_k)
        lost = 0 if may_lack else int((rows < 0).any(axis=1).sum())
        if lost:
            raise RetrievalError(f"{index}: found fewer than {top_k} passages for {lost} questions: raise nprobe")
        return rows, scores

    folder, records = blocks_folder(out), list[Record]()
    with Progress("questions searched", len(questions)) as shown:
        for start in range(0, len(questions), block_texts):
            asked = questions[start : start + block_texts]
            made_from = questions_digest(digest, asked)
            record, kept = kept_or_found(folder, start, len(asked), made_from, functools.partial(find, asked))
            records.append(record)
            shown.advance(len(asked), kept)
    numbers = summary(folder, records, top_k)
    _write_texts(out, questions, table, records, numbers, params.continuation)
    origin = {
        "params": params.recorded(),
        "examples_sha256": sha256(examples),
        "own_documents": own_documents,
        "continuation": params.continuation,
    }
    made = {"sha256": sha256(out), "passages_sha256": table.sha256}
    manifest = manifest_path(out)
    files = {name: relative(file, manifest) for name, file in (("examples", examples), ("references", references))}
    request = {**search.request(manifest), **files, "own_documents": own_documents}
    write_json(manifest, {**origin, **numbers, **made, "request": request})
    logger.info("%s: %d passages for %d texts", out, numbers["hits"], len(questions))


def load_questions(examples: str | Path, references: str | Path | None) -> list[Example]:
    """Questions to search for, with what their answers are held against where that is given."""
    questions = load_examples(examples)
    if references is not None:
        return with_references(questions, references)
    return [dataclasses.replace(question, answers=()) for question in questions]  # a search knows no answers


def questions_asked(table: PassageTable, questions: Sequence[Example], own_documents: bool) -> Asked:
    """A block of questions as a search is asked: of all passages, or of each question's own document's.

    Raises `RetrievalError` for a document without passages.
    """
    return Asked(
        table,
        [example.question_id for example in questions],
        [example.question for example in questions],
        owns=_own_rows(questions, table) if own_documents else None,
        questions=questions,
    )


def question_search_digest(search: Search, table: PassageTable, own_documents: bool) -> str:
    """Digest of all that determines the hits of questions, beside the questions."""
    return search.digest(table, CacheNeighborsParams.version, own_documents=own_documents)


def questions_digest(search_digest: str, questions: Sequence[Example]) -> str:
    """Digest of what a block of hits is made from."""
    found = hashlib.sha256(search_digest.encode())
    for example in questions:
        found.update(
            repr((example.question_id, example.question, example.answers, example.doc_id, example.evidence)).encode()
        )
    return found.hexdigest()


def load_neighbors(path: str | Path) -> dict[str, list[Passage]]:
    """Passages of each question, best first.

    Raises `RetrievalError` with the remedy if the cache is missing, damaged, lacks a column or a question, or has a gap
    in its ranks.
    """
    import pyarrow.parquet as pq

    remedy = f"delete {path} and run again to rebuild it"
    if not Path(path).is_file():
        raise RetrievalError(f"{path}: no such neighbor cache; run cache_neighbors first")
    try:
        manifest = read_json(manifest_path(path)) if manifest_path(path).is_file() else {}
        if manifest.get("sha256") not in (None, sha256(path)):
            raise RetrievalError(f"{path}: damaged (not what its manifest says); {remedy}")
        frame = read_parquet(path)
    except DataError as error:
        raise RetrievalError(str(error)) from error
    metadata = pq.read_schema(path).metadata or {}
    missing = [name for name in ("question_id", "rank", *PASSAGE_COLUMNS) if name not in frame.columns]
    if missing:
        raise RetrievalError(f"{path}: no column {', '.join(missing)}; {remedy}")
    found: dict[str, list[Passage]] = {}
    columns = (frame[column] for column in PASSAGE_COLUMNS)
    for name, rank, *values in zip(frame["question_id"], frame["rank"], *columns, strict=True):
        ranked = found.setdefault(name, [])
        if rank != len(ranked):
            raise RetrievalError(f"{path}: {name} has rank {rank} where {len(ranked)} is due; {remedy}")
        ranked.append(Passage(*values))
    if b"texts" in metadata:
        expected = int(metadata[b"texts"]) - int(metadata[b"texts_without_passage"])
        if len(found) != expected:
            raise RetrievalError(f"{path}: passages for {len(found)} texts where {expected} are due; {remedy}")
    return found


def manifest_path(cache: str | Path) -> Path:
    """`{cache}.manifest.json` beside `{cache}.parquet`."""
    return Path(cache).with_suffix(".manifest.json")


def blocks_folder(cache: str | Path) -> Path:
    """The folder of the blocks that a cache is made from."""
    return Path(cache).with_suffix("")


def check_enough(top_k: int, table: PassageTable) -> None:
    """Raise `RetrievalError` if there are fewer passages than each text is to have."""
    if not 1 <= top_k <= table.rows:
        raise RetrievalError(
            f"top_k={top_k}, but {table.path} holds {table.rows} passages: set top_k between 1 and {table.rows},"
            " or retrieve from a larger corpus"
        )


def _own_rows(questions: Sequence[Example], table: PassageTable) -> list[Any]:
    """Rows of the passages of each question's own document; `RetrievalError` for a document without passages."""
    found = []
    for example in questions:
        rows = table.rows_of(example.doc_id) if example.doc_id is not None else ()
        if not len(rows):
            raise RetrievalError(
                f"question {example.question_id!r}: its document {example.doc_id!r} has no passage in {table.path};"
                " delete that file and run chunk_documents again"
            )
        found.append(rows)
    return found


def _write_texts(
    out: str | Path,
    questions: Sequence[Example],
    table: PassageTable,
    records: Sequence[Record],
    numbers: dict[str, Any],
    continuation: bool,
) -> None:
    """Write hits with their passages, a row per question and rank."""
    text = ("passage_id", "title", "text")
    # Kept in the file itself: a cache that lost rows must not pass for one of fewer questions.
    metadata = {name: str(numbers[name]) for name in ("texts", "texts_without_passage")}
    schema = pa.schema(
        [
            ("question_id", pa.string()),
            ("rank", pa.int64()),
            *((name, pa.string()) for name in text),
            ("score", pa.float32()),
        ],
        metadata,
    )

    def part(first: int, rows: Any, scores: Any) -> Any:
        found = rows >= 0
        asked, ranks = np.nonzero(found)
        taken = table.given(rows[found], continuation)
        columns = {
            "question_id": pa.array([questions[first + number].question_id for number in asked.tolist()], pa.string()),
            "rank": pa.array(ranks),
            **{name: taken[name].cast(pa.string()) for name in text},
            "score": pa.array(scores[found]),
        }
        return pa.table(columns, schema=schema)

    blocks = read_blocks(blocks_folder(out), records, "run cache_neighbors again")
    write_parquet_parts(out, (part(*several) for several in _together(blocks)), schema)


def _together(blocks: Iterator[tuple[int, dict[str, Any]]]) -> Iterator[tuple[int, Any, Any]]:
    """(number of the first text, rows, scores) of as many blocks together as `PASSAGES_AT_ONCE` admits."""
    first, rows, scores = 0, list[Any](), list[Any]()
    for start, arrays in blocks:
        if rows and sum(map(np.size, rows)) + arrays["rows"].size > PASSAGES_AT_ONCE:
            yield first, np.concatenate(rows), np.concatenate(scores)
            first, rows, scores = start, [], []
        rows.append(arrays["rows"])
        scores.append(arrays["scores"])
    if rows:
        yield first, np.concatenate(rows), np.concatenate(scores)
