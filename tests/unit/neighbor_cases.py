"""Hand-made neighbor caches of training text, and the one place where tests make parameters of searches."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from retrotune.retrieval.caches.questions import cache_neighbors
from retrotune.retrieval.caches.results import Keys, kept_or_found, summary
from retrotune.retrieval.caches.texts import cache_pretraining_neighbors
from retrotune.runtime.files import sha256, write_json, write_parquet
from retrotune.study.config import CorpusEntry, RetrieverEntry
from retrotune.study.stages import CacheNeighborsParams, CacheTextNeighborsParams

Neighbor = tuple[str, int, str, str, str]
"""Document id, chunk, and the passage's id, title and text; neighbors of a chunk follow each other, best first."""


def write_text_cache(path: Path, neighbors: Iterable[Neighbor], **manifest) -> Path:
    """Write the cache `path` (`.json`), its block and, beside it, its passages; `manifest` adds to the manifest."""
    neighbors = list(neighbors)
    texts = dict.fromkeys(neighbor[2:] for neighbor in neighbors)
    rows = {passage: row for row, passage in enumerate(texts)}
    frame = pd.DataFrame(list(texts), columns=["passage_id", "title", "text"]).assign(doc_id="d")
    passages = path.with_suffix(".passages.parquet")
    write_parquet(passages, frame)
    found: dict[tuple[str, int], list[int]] = {}
    for doc_id, chunk, *passage in neighbors:
        found.setdefault((doc_id, chunk), []).append(rows[tuple(passage)])
    top_k = max(map(len, found.values()))
    hits = np.array([[*ranked, *[-1] * (top_k - len(ranked))] for ranked in found.values()])
    record, _ = kept_or_found(
        path.with_suffix(""), 0, len(hits), "by hand", lambda: (hits, np.ones(hits.shape)), Keys.of(found)
    )
    origin = {"continuation": False, "passages": passages.name, "passages_sha256": sha256(passages)}
    write_json(path, {**origin, **summary(path.with_suffix(""), [record], top_k), **manifest})
    return path


def cache_questions(
    examples: Path,
    passages: Path,
    retriever: RetrieverEntry,
    top_k: int,
    own_documents: bool,
    out: Path,
    continuation: bool = False,
    **files: Any,
) -> None:
    """Find the neighbors of questions; `files` are those that the retriever needs beside, and the size of blocks."""
    params = CacheNeighborsParams(
        retriever=retriever, top_k=top_k, own_documents=own_documents, continuation=continuation
    )
    cache_neighbors(params, examples, passages, out, **files)


def cache_texts(
    corpora: dict[str, CorpusEntry],
    root: Path,
    passages: Path,
    source: str,
    retriever: RetrieverEntry,
    top_k: int,
    out: Path,
    tokenizer: Path | str = "none",
    chunk_length: int = 0,
    continuation: bool = False,
    **files: Any,
) -> None:
    """Find the neighbors of text to train on: of its chunks, or of whole documents where `chunk_length` is 0."""
    params = CacheTextNeighborsParams(
        retriever=retriever, top_k=top_k, source=source, corpora=corpora, continuation=continuation
    )
    cache_pretraining_neighbors(params, root, passages, tokenizer, chunk_length, out, **files)
