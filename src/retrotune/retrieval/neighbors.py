"""Neighbor caches: the passages of every question, and of every chunk of pretraining text, found once and kept.

A cache is a parquet file with a row per key and rank; its manifest `{cache}.manifest.json` counts what was found.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from retrotune.config import CorpusEntry, RetrieverEntry
from retrotune.corpus.documents import Document, count_bad, read_corpus
from retrotune.corpus.records import BadRecords
from retrotune.datasets.base import Example, Passage
from retrotune.datasets.prepare import load_examples
from retrotune.errors import DataError, RetrievalError
from retrotune.files import read_json, read_parquet, sha256, write_json, write_parquet
from retrotune.log import logger
from retrotune.retrieval.controls import Pool, controlled_hits, gold_hits
from retrotune.retrieval.passages import DocumentRows, PassageTable
from retrotune.retrieval.ranking import Hits, best_rows, no_hits
from retrotune.retrieval.search import Searcher, open_searcher
from retrotune.stages import STAGE_VERSIONS

PASSAGE_COLUMNS = ("passage_id", "title", "text", "score")
DOCUMENTS_AT_ONCE = 1000


def cache_neighbors(
    examples: str | Path,
    passages: str | Path,
    retriever: RetrieverEntry,
    top_k: int,
    own_documents: bool,
    out: str | Path,
    embeddings: str | Path | None = None,
    index: str | Path | None = None,
    base: RetrieverEntry | None = None,
) -> None:
    """Find the best `top_k` passages of every question and write them to `out`.

    Open-domain questions search all passages, by BM25 or through `index`. With `own_documents` a question searches its
    own document only, exactly and without an index; BM25 weighs words by all documents of the dataset. A document with
    fewer than `top_k` passages gives all of them, which is counted and logged. `base` is the entry of the retriever
    that a degraded one starts from. Gold gives what passages are known to hold the answer, possibly none.

    Columns of `out`: question_id, rank (from 0), passage_id, title, text, score (higher is better). Raises
    `RetrievalError` if `top_k` exceeds the passages of an open-domain corpus, a document has no passages, or vectors,
    index and passages do not belong together.
    """
    questions = load_examples(examples)
    table = PassageTable(passages)
    if not own_documents:
        _check_enough(top_k, table)
    searcher = open_searcher(base or retriever, table, embeddings, None if own_documents else index)
    documents = DocumentRows(table) if own_documents else None
    hits = question_hits(retriever, base, searcher, questions, table, documents, top_k)
    if not own_documents and (base or retriever).kind != "gold" and (hits[0] < 0).any():
        lost = int((hits[0] < 0).any(axis=1).sum())
        raise RetrievalError(f"{index}: found fewer than {top_k} passages for {lost} questions: raise nprobe")
    keys = {"question_id": pa.array([example.question_id for example in questions], pa.string())}
    _write_cache(
        out,
        keys,
        hits,
        table,
        {
            "stage_version": STAGE_VERSIONS["cache_neighbors"],
            "examples_sha256": sha256(examples),
            "own_documents": own_documents,
        },
    )


def question_hits(
    retriever: RetrieverEntry,
    base: RetrieverEntry | None,
    searcher: Searcher,
    questions: Sequence[Example],
    table: PassageTable,
    documents: DocumentRows | None,
    k: int,
) -> Hits:
    """The best `k` passages of each question by a retriever, real or control; with `documents` those of its own one.

    `searcher` is that of `base` if there is one. What a question gets does not depend on the others.
    """
    owns = None
    if documents is not None:
        owns = [documents.of(example.doc_id, example.question_id) for example in questions]
    pools = [Pool(rows) for rows in owns or [range(table.rows)] * len(questions)]

    def search(entry: RetrieverEntry) -> Hits:
        encoded = searcher.encode([example.question for example in questions])
        if entry.kind == "gold":
            return gold_hits(searcher, encoded, questions, owns, table, k)
        return searcher.search(encoded, k) if owns is None else _search_own(searcher, encoded, owns, k)

    return controlled_hits(retriever, base, [example.question_id for example in questions], pools, k, search)


def cache_pretraining_neighbors(
    corpora: Mapping[str, CorpusEntry],
    root: str | Path,
    passages: str | Path,
    source: str,
    tokenizer_json: str | Path,
    chunk_length: int,
    retriever: RetrieverEntry,
    top_k: int,
    out: str | Path,
    embeddings: str | Path | None = None,
    index: str | Path | None = None,
    base: RetrieverEntry | None = None,
) -> None:
    """Find the best `top_k` passages of other documents for all text that models are pretrained on.

    The query is the text of each chunk of `chunk_length` tokens, cut without special tokens as training cuts it, or the
    whole document if `chunk_length` is 0 (its chunk number is then 0). `source` is the corpus that `passages` were cut
    from: passages of the very document that asks are left out (RETRO, arXiv 2112.04426, section 2.1). Text that has
    fewer than `top_k` passages of other documents gets those there are, which is counted and logged.

    Columns of `out`: doc_id (as `corpus_documents` names it), chunk, rank, passage_id, title, text, score. Raises
    `RetrievalError` as `cache_neighbors` does.
    """
    table = PassageTable(passages)
    _check_enough(top_k, table)
    searcher = open_searcher(base or retriever, table, embeddings, index)
    doc_of_row, codes = _codes(f"{source}/{doc_id}" for doc_id in table.column("doc_id"))
    doc_ids: list[str] = []
    chunks: list[int] = []
    pieces: list[Hits] = []
    bad = count_bad(corpora)
    pretraining = _pretraining_texts(corpora, root, tokenizer_json, chunk_length, bad)
    for texts in _batches(pretraining, DOCUMENTS_AT_ONCE):
        doc_ids.extend(doc_id for doc_id, _, _ in texts)
        chunks.extend(chunk for _, chunk, _ in texts)
        own = np.array([codes.get(doc_id, -1) for doc_id, _, _ in texts])
        pieces.append(_text_hits(retriever, base, searcher, texts, own, doc_of_row, top_k))
        logger.info("%d texts searched", len(doc_ids))
    hits = (np.concatenate([rows for rows, _ in pieces]), np.concatenate([scores for _, scores in pieces]))
    keys = {"doc_id": pa.array(doc_ids, pa.string()), "chunk": pa.array(chunks, pa.int64())}
    _write_cache(
        out,
        keys,
        hits,
        table,
        {
            "stage_version": STAGE_VERSIONS["cache_pretraining_neighbors"],
            "chunk_length": chunk_length,
            "tokenizer_sha256": sha256(tokenizer_json) if chunk_length else None,
            "bad_records": {name: records.summary() for name, records in bad.items()},
        },
    )


def corpus_documents(
    corpora: Mapping[str, CorpusEntry], root: str | Path, bad: Mapping[str, BadRecords] | None = None
) -> Iterator[Document]:
    """Documents of several corpora, their ids made unique by the corpus' name: `{corpus}/{doc_id}`.

    `bad` are the corpora's counters of bad records, as `count_bad` makes them, for the caller's manifest.
    """
    bad = bad or count_bad(corpora)
    for name, entry in corpora.items():
        for document in read_corpus(entry, root, bad[name]):
            yield Document(f"{name}/{document.doc_id}", document.title, document.text)


def load_neighbors(path: str | Path) -> dict[str, list[Passage]]:
    """Passages of each question, best first.

    Raises `RetrievalError` with the remedy if the cache is missing, damaged, lacks a column or a question, or has a gap
    in its ranks.
    """
    return {key[0]: found for key, found in _read_cache(path, ("question_id",)).items()}


def load_pretraining_neighbors(path: str | Path) -> dict[tuple[str, int], list[Passage]]:
    """Passages of each (document id, chunk number), best first; text without any passage has no entry. Raises alike."""
    return _read_cache(path, ("doc_id", "chunk"))


def check_tokenizer(path: str | Path, tokenizer_json: str | Path) -> None:
    """Raise `RetrievalError` if a cache of pretraining neighbors belongs to the chunks of another tokenizer."""
    found = read_json(_manifest_path(path)).get("tokenizer_sha256") if _manifest_path(path).is_file() else None
    if found is not None and found != sha256(tokenizer_json):
        raise RetrievalError(
            f"{path}: found for chunks that another tokenizer than {tokenizer_json} cuts; delete it and run "
            "cache_retrofitting_neighbors again"
        )


def _check_enough(top_k: int, table: PassageTable) -> None:
    if not 1 <= top_k <= table.rows:
        raise RetrievalError(
            f"top_k={top_k}, but {table.path} holds {table.rows} passages: set top_k between 1 and {table.rows},"
            " or retrieve from a larger corpus"
        )


def _codes(names: Iterable[str]) -> tuple[Any, dict[str, int]]:
    """Names as small integers: (array of codes, code of each name)."""
    codes: dict[str, int] = {}
    return np.array([codes.setdefault(name, len(codes)) for name in names], dtype=np.int64), codes


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _search_own(searcher: Searcher, encoded: Any, owns: Sequence[Any], k: int) -> Hits:
    """Exact search of each question among the passages of its own document (`owns`), one document at a time."""
    asked: dict[int, list[int]] = {}
    for number, own_rows in enumerate(owns):
        asked.setdefault(int(own_rows[0]), []).append(number)
    rows, scores = no_hits(len(owns), k)
    for numbers in asked.values():
        own_rows = owns[numbers[0]]
        for number, found in zip(numbers, searcher.score(encoded[numbers], own_rows), strict=True):
            best = best_rows(found, k)
            rows[number, : len(best)] = own_rows[best]
            scores[number, : len(best)] = found[best]
    return rows, scores


def _text_hits(
    retriever: RetrieverEntry,
    base: RetrieverEntry | None,
    searcher: Searcher,
    texts: Sequence[tuple[str, int, str]],
    own: Any,
    doc_of_row: Any,
    k: int,
) -> Hits:
    """The best `k` passages outside each text's own document (`own` [n], -1: none of its passages are searched).

    `texts` are (document id, chunk, text); by a retriever, real or control, as `question_hits`.
    """
    keys = [f"{doc_id}#{chunk}" for doc_id, chunk, _ in texts]

    def others(code: int) -> Pool:
        return Pool(range(len(doc_of_row)), lambda row: bool(doc_of_row[row] != code))

    def search(entry: RetrieverEntry) -> Hits:
        if entry.kind == "gold":
            raise RetrievalError("gold needs answers, which text to train on has not: use another retriever")
        return _search_others(searcher, searcher.encode([text for _, _, text in texts]), own, doc_of_row, k)

    return controlled_hits(retriever, base, keys, [others(code) for code in own], k, search)


def _search_others(searcher: Searcher, encoded: Any, own: Any, doc_of_row: Any, k: int) -> Hits:
    """The best passages outside each text's own document (`own` [n], -1: none of its passages are searched).

    Fetches more until `k` others are found, or all passages have been seen.
    """
    rows, scores = no_hits(len(encoded), k)
    pending = np.arange(len(encoded))
    fetch = min(2 * k, searcher.size)
    while len(pending):
        found_rows, found_scores = searcher.search(encoded[pending], fetch)
        other = (found_rows >= 0) & (doc_of_row[found_rows] != own[pending, None])
        place = np.cumsum(other, axis=1) - 1
        kept = other & (place < k)
        text = np.broadcast_to(pending[:, None], kept.shape)[kept]
        rows[text, place[kept]] = found_rows[kept]
        scores[text, place[kept]] = found_scores[kept]
        if fetch == searcher.size:
            break
        pending = pending[other.sum(axis=1) < k]
        fetch = min(4 * fetch, searcher.size)
    return rows, scores


def _pretraining_texts(
    corpora: Mapping[str, CorpusEntry],
    root: str | Path,
    tokenizer_json: str | Path,
    chunk_length: int,
    bad: Mapping[str, BadRecords] | None = None,
) -> Iterator[tuple[str, int, str]]:
    """(document id, chunk number, text to search with) of all pretraining text, in order."""
    from tokenizers import Tokenizer

    if chunk_length and not Path(tokenizer_json).is_file():
        raise RetrievalError(
            f"{tokenizer_json}: no such tokenizer; neighbors per chunk need one in tokenizers' JSON format: convert "
            "the model again with a tokenizer, or set neighbors_per: document"
        )
    tokenizer = Tokenizer.from_file(str(tokenizer_json)) if chunk_length else None
    for documents in _batches(corpus_documents(corpora, root, bad), DOCUMENTS_AT_ONCE):
        if tokenizer is None:
            yield from ((document.doc_id, 0, document.text) for document in documents)
            continue
        encodings = tokenizer.encode_batch([document.text for document in documents], add_special_tokens=False)
        for document, encoding in zip(documents, encodings, strict=True):
            for chunk, start in enumerate(range(0, len(encoding.ids), chunk_length)):
                spans = encoding.offsets[start : start + chunk_length]
                yield document.doc_id, chunk, document.text[spans[0][0] : spans[-1][1]]


def _write_cache(
    out: str | Path, keys: Mapping[str, Any], hits: Hits, table: PassageTable, made_from: Mapping[str, Any]
) -> None:
    """Write hits with their passages, a row per key and rank, and the manifest."""
    rows, scores = hits
    found = rows >= 0
    counts = found.sum(axis=1)
    keyed = np.repeat(np.arange(len(rows)), counts)
    taken = table.take(rows[found])
    columns = {
        **{name: values.take(pa.array(keyed)) for name, values in keys.items()},
        "rank": pa.array(np.nonzero(found)[1]),
        **{name: taken[name] for name in ("passage_id", "title", "text")},
        "score": pa.array(scores[found]),
    }
    numbers = {"texts": len(rows), "texts_without_passage": int((counts == 0).sum())}
    # Kept in the file itself: a cache that lost rows must not pass for one of fewer questions.
    cache = pa.table(columns).replace_schema_metadata({name: str(number) for name, number in numbers.items()})
    write_parquet(out, cache)
    short = int((counts < rows.shape[1]).sum())
    if short:
        logger.warning("%s: %d of %d texts have fewer than %d passages", out, short, len(rows), rows.shape[1])
    manifest = {**numbers, "texts_with_fewer": short, "rows": len(cache), "top_k": rows.shape[1], "sha256": sha256(out)}
    write_json(_manifest_path(out), {**made_from, **manifest, "passages_sha256": table.sha256})
    logger.info("%s: %d passages for %d texts", out, len(cache), len(rows))


def _manifest_path(cache: str | Path) -> Path:
    return Path(cache).with_suffix(".manifest.json")


def _read_cache(path: str | Path, key: tuple[str, ...]) -> dict[Any, list[Passage]]:
    """Passages by key, every check made."""
    import pyarrow.parquet as pq

    remedy = f"delete {path} and run again to rebuild it"
    if not Path(path).is_file():
        raise RetrievalError(
            f"{path}: no such neighbor cache; run cache_neighbors or cache_pretraining_neighbors first"
        )
    try:
        manifest = read_json(_manifest_path(path)) if _manifest_path(path).is_file() else {}
        if manifest.get("sha256") not in (None, sha256(path)):
            raise RetrievalError(f"{path}: damaged (not what its manifest says); {remedy}")
        frame = read_parquet(path)
    except DataError as error:
        raise RetrievalError(str(error)) from error
    metadata = pq.read_schema(path).metadata or {}
    missing = [name for name in (*key, "rank", *PASSAGE_COLUMNS) if name not in frame.columns]
    if missing:
        raise RetrievalError(f"{path}: no column {', '.join(missing)}; {remedy}")
    found: dict[Any, list[Passage]] = {}
    names = zip(*(frame[name] for name in key), strict=True)
    for name, rank, *values in zip(names, frame["rank"], *(frame[column] for column in PASSAGE_COLUMNS), strict=True):
        ranked = found.setdefault(name, [])
        if rank != len(ranked):
            raise RetrievalError(
                f"{path}: {' '.join(map(str, name))} has rank {rank} where {len(ranked)} is due; {remedy}"
            )
        ranked.append(Passage(*values))
    if b"texts" in metadata:
        expected = int(metadata[b"texts"]) - int(metadata[b"texts_without_passage"])
        if len(found) != expected:
            raise RetrievalError(f"{path}: passages for {len(found)} texts where {expected} are due; {remedy}")
    return found
