"""BM25 over words: no model, no index file, the same answer on every machine."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from retrotune.errors import RetrievalError
from retrotune.retrieval.passages import PassageTable, passage_text
from retrotune.retrieval.search.ranking import best_rows
from retrotune.runtime.log import logger, progress


class SparseSearcher:
    """BM25 (Lucene's formula, k1 1.5, b 0.75) through bm25s, in memory, over title and text of each passage.

    Words are lower-cased runs of two or more word characters without English function words. Raises `RetrievalError`
    if no passage holds a word.
    """

    def __init__(self, table: PassageTable) -> None:
        import bm25s

        self.size = table.rows
        logger.info("BM25 reads %d passages", table.rows)
        texts = [passage_text(*pair) for pair in zip(table.column("title"), table.column("text"), strict=True)]
        tokens = bm25s.tokenize(texts, stopwords="en", show_progress=False)
        if not tokens.vocab:
            raise RetrievalError(f"{table.path}: no passage holds a word; BM25 has nothing to search in")
        self._words = dict(tokens.vocab)
        self._bm25 = bm25s.BM25(backend="numpy")
        self._bm25.index(tokens, show_progress=False)

    def encode(self, texts: Sequence[str]) -> Any:
        """Known words of each text as numbers; an array [n] of integer arrays."""
        import bm25s

        words = bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)
        encoded = np.empty(len(texts), dtype=object)
        for row, found in enumerate(words):
            encoded[row] = np.array([self._words[word] for word in found if word in self._words], dtype=np.int32)
        return encoded

    def search(self, encoded: Any, k: int) -> tuple[Any, Any]:
        """The best `k` passages of each text: (rows, scores) [n, k]; ties go to the lower row."""
        rows = np.empty((len(encoded), k), dtype=np.int64)
        scores = np.empty((len(encoded), k), dtype=np.float32)
        for number, words in enumerate(progress(encoded, "texts searched by BM25")):
            all_scores = self._bm25.get_scores_from_ids(words)
            rows[number] = best_rows(all_scores, k)
            scores[number] = all_scores[rows[number]]
        return rows, scores

    def score(self, encoded: Any, rows: Any) -> Any:
        """Scores [n, len(rows)] of given passages, with the word statistics of all passages."""
        return np.stack([self._bm25.get_scores_from_ids(words)[rows] for words in encoded])
