"""Rankings of passages: encode texts once, then search all passages or score some."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from retrotune.errors import RetrievalError
from retrotune.retrieval.vectors.embeddings import check_vectors
from retrotune.runtime.log import progress

QUERIES_AT_ONCE = 1024
TIE_MARGIN = 8


class Searcher(Protocol):
    """What encoders and BM25 have in common. Rows are passage rows; higher scores are better; ties: the lower row."""

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
