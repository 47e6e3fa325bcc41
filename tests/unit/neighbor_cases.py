"""Hand-made neighbor caches of training text."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from retrotune.files import sha256, write_json, write_parquet
from retrotune.retrieval.cache import Keys, kept_or_found, summary

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
