"""What a search is asked, and how any retriever answers: `find`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from retrotune.data.datasets.base import Example
from retrotune.retrieval.passages import PassageTable
from retrotune.retrieval.search.hits import Hits, no_hits
from retrotune.retrieval.search.ranking import best_rows
from retrotune.retrieval.search.searchers import Searcher


def _any_row(row: int) -> bool:
    return True


@dataclass(frozen=True)
class Pool:
    """Passage rows that a text may be given: all of a corpus, those of a document, or those that `allowed` admits."""

    rows: Sequence[int] | Any
    allowed: Callable[[int], bool] = _any_row


@dataclass(frozen=True)
class Asked:
    """A block of texts that look for passages of `table`, and which ones each may be given.

    `keys` name the texts. With `owns`, rows of passages for each text, it gets some of these only. With `documents`,
    numbers [n] as in `table.documents` (-1: none), it gets passages of other documents only. Else it may get any.
    `questions` are the texts' questions with their answers, where they have some.
    """

    table: PassageTable
    keys: Sequence[str]
    texts: Sequence[str]
    owns: Sequence[Any] | None = None
    documents: Any = None
    questions: Sequence[Example] | None = None

    def pools(self) -> list[Pool]:
        """What each text may be given."""
        if self.owns is not None:
            return [Pool(rows) for rows in self.owns]
        every = range(self.table.rows)
        if self.documents is None:
            return [Pool(every)] * len(self.keys)
        return [self._others(number) for number in self.documents.tolist()]

    def _others(self, number: int) -> Pool:
        doc_of_row, _ = self.table.documents
        return Pool(range(self.table.rows), lambda row: bool(doc_of_row[row] != number))


class Finder(Protocol):
    """A retriever: an encoder, BM25 or a control."""

    def find(self, asked: Asked, k: int) -> Hits:
        """The best `k` passages of each text. A text gets the same ones whatever block it is in."""
        ...


class Ranked:
    """Finds the passages that a searcher ranks highest."""

    def __init__(self, searcher: Searcher) -> None:
        self.searcher = searcher

    def find(self, asked: Asked, k: int) -> Hits:
        """See `Finder`."""
        encoded = self.searcher.encode(asked.texts)
        if asked.owns is not None:
            return among_own(self.searcher, encoded, asked.owns, k)
        if asked.documents is not None:
            return among_others(self.searcher, encoded, asked.documents, asked.table.documents[0], k)
        found: Hits = self.searcher.search(encoded, k)
        return found


def among_own(searcher: Searcher, encoded: Any, owns: Sequence[Any], k: int) -> Hits:
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


def among_others(searcher: Searcher, encoded: Any, own: Any, doc_of_row: Any, k: int) -> Hits:
    """The best passages outside each text's own document (`own` [n], -1: none of its passages are searched).

    Fetches more until `k` others are found, the index finds no more, or all passages have been seen.
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
        pending = pending[(other.sum(axis=1) < k) & (found_rows[:, -1] >= 0)]
        fetch = min(4 * fetch, searcher.size)
    return rows, scores
