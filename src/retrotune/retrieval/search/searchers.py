"""One interface to search passages, whatever the retriever: encode texts once, then search all or score some."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from retrotune.errors import RetrievalError
from retrotune.retrieval.passages import PassageTable
from retrotune.retrieval.vectors.embeddings import check_vectors
from retrotune.runtime.log import progress
from retrotune.study.config import RetrieverEntry

QUERIES_AT_ONCE = 1024
TIE_MARGIN = 8


class Searcher(Protocol):
    """What retrievers have in common. Rows are passage rows, higher scores are better, ties go to the lower row."""

    size: int
    """Number of passages."""

    def encode(self, texts: Sequence[str]) -> Any:
        """Texts as this retriever searches with them: an array whose first axis is the text."""
        ...

    def search(self, encoded: Any, k: int) -> tuple[Any, Any]:
        """(rows, scores) [n, k] of the best `k` of all passages, best first; row -1 where an index found fewer."""
        ...

    def score(self, encoded: Any, rows: Any) -> Any:
        """Scores [n, len(rows)] of given passages."""
        ...


class Control:
    """Stands where a control (gold, random, degraded) is asked for passages; `controls.py` finds them.

    `searched` ranks the passages that gold looks through, and is what a degraded retriever starts from.
    """

    def __init__(self, entry: RetrieverEntry, size: int, searched: Searcher | None = None) -> None:
        self.entry, self.size, self.searched = entry, size, searched

    def encode(self, texts: Sequence[str]) -> Any:
        """A control does not search by texts alone: raises `RetrievalError`."""
        raise RetrievalError(f"{self.entry.kind} passages are not searched by text: only neighbor caches have them")

    def search(self, encoded: Any, k: int) -> tuple[Any, Any]:
        """As `encode`."""
        return self.encode(()), None

    def score(self, encoded: Any, rows: Any) -> Any:
        """As `encode`."""
        return self.encode(())


class DenseSearcher:
    """Dot products of an encoder's vectors: through a FAISS index over all passages, exactly over given ones."""

    def __init__(self, encoder: Any, vectors: Any, index: Any = None) -> None:
        self.size: int = vectors.rows
        self._encoder = encoder
        self._vectors = vectors
        self._index = index
        if encoder.dim != vectors.dim:
            raise RetrievalError(
                f"the query model gives vectors of width {encoder.dim}, {vectors.path} holds width {vectors.dim}:"
                " query_model and passage_model do not belong together"
            )

    def encode(self, texts: Sequence[str]) -> Any:
        """Query vectors [n, D]; `RetrievalError` naming the text whose vector is zero or not finite."""
        vectors = self._encoder.encode(texts)
        check_vectors(vectors, lambda row: f"question {texts[row][:200]!r}")
        return vectors

    def search(self, encoded: Any, k: int) -> tuple[Any, Any]:
        """See `Searcher`; needs an index."""
        if self._index is None:
            raise RetrievalError("searching all passages with vectors needs an index: name one in the retrieval")
        rows = np.empty((len(encoded), k), dtype=np.int64)
        scores = np.empty((len(encoded), k), dtype=np.float32)
        pending = np.arange(len(encoded))
        # FAISS keeps any of equal scores: fetch until the last one fetched is worse than the last one kept.
        fetch = min(k + TIE_MARGIN, self.size)
        while len(pending):
            tied = np.zeros(len(pending), dtype=bool)
            starts = range(0, len(pending), QUERIES_AT_ONCE)
            parts = [(start, pending[start : start + QUERIES_AT_ONCE]) for start in starts]
            for start, part in progress(parts, "queries searched", len(pending), size=lambda item: len(item[1])):
                found_scores, found_rows = self._index.search(encoded[part], fetch)
                order = np.lexsort((found_rows, -found_scores), axis=-1)
                found_scores = np.take_along_axis(found_scores, order, axis=1)
                found_rows = np.take_along_axis(found_rows, order, axis=1)
                rows[part], scores[part] = found_rows[:, :k], found_scores[:, :k]
                open_end = (found_scores[:, -1] == found_scores[:, k - 1]) & (found_rows[:, -1] >= 0)
                tied[start : start + QUERIES_AT_ONCE] = open_end
            if fetch == self.size:
                break
            pending = pending[tied]
            fetch = min(4 * fetch, self.size)
        return rows, scores

    def score(self, encoded: Any, rows: Any) -> Any:
        """See `Searcher`."""
        return encoded @ self._vectors.take(rows).T


def open_searcher(
    retriever: RetrieverEntry,
    table: PassageTable,
    embeddings: str | Path | None = None,
    index: str | Path | None = None,
    base: RetrieverEntry | None = None,
) -> Searcher:
    """The searcher of a retriever over the passages of `table`; `base` is the entry that a degraded one starts from.

    Raises `RetrievalError` if a dense retriever lacks vectors, or vectors and index do not belong to these passages.
    """
    if retriever.kind == "degraded":
        if base is None:
            raise RetrievalError(f"a degraded retriever starts from its base {retriever.base!r}: give that one's entry")
        return Control(retriever, table.rows, open_searcher(base, table, embeddings, index))
    if retriever.kind == "random":
        return Control(retriever, table.rows)
    if retriever.kind in ("bm25", "gold"):
        from retrotune.retrieval.search.sparse import SparseSearcher

        searcher = SparseSearcher(table)
        return searcher if retriever.kind == "bm25" else Control(retriever, table.rows, searcher)
    from retrotune.retrieval.search.index import open_index
    from retrotune.retrieval.vectors.embeddings import Embeddings
    from retrotune.retrieval.vectors.encoders import fingerprint, load_encoder

    if embeddings is None:
        raise RetrievalError("a dense retriever needs the embeddings of its passages: run embed_passages")
    vectors = Embeddings(embeddings)
    for key, value in (("passages_sha256", table.sha256), ("retriever", fingerprint(retriever))):
        if vectors.manifest[key] != value:
            what = table.path if key == "passages_sha256" else f"retriever model {retriever.query_model!r}"
            raise RetrievalError(f"{embeddings}: not made from {what} as it is now; delete it and run embed_passages")
    opened = open_index(index, vectors) if index is not None else None
    return DenseSearcher(load_encoder(retriever, "query"), vectors, opened)
