"""Controls beside real retrievers: passages that hold the answer, random ones, and neighbors made worse on purpose.

What is drawn for a text depends on the seed and on the text's own key alone, never on the block it is searched in, and
only on `random.Random.random`, whose sequence Python guarantees for all versions. Scores of controls say what a
passage is: 1 holds the answer, 0 is random.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from retrotune.data.datasets.base import Example
from retrotune.errors import RetrievalError
from retrotune.retrieval.passages import PassageTable
from retrotune.retrieval.search.answers import evidence_places, holds_answer
from retrotune.retrieval.search.finding import Asked, Finder, Pool
from retrotune.retrieval.search.hits import Hits, no_hits
from retrotune.retrieval.search.ranking import best_rows
from retrotune.retrieval.search.searchers import Searcher
from retrotune.runtime.log import logger

GOLD_DEPTH = 1000
"""Open domain: best passages by BM25 that are looked through for the answer (DPR itself took 100)."""

TEXTS_AT_ONCE = 200_000


class Random:
    """Random passages."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def find(self, asked: Asked, k: int) -> Hits:
        """See `Finder`."""
        return random_hits(asked.keys, asked.pools(), k, self.seed)


class Gold:
    """Passages that hold the answer, those first that `searcher` ranks highest."""

    def __init__(self, searcher: Searcher) -> None:
        self.searcher = searcher

    def find(self, asked: Asked, k: int) -> Hits:
        """See `Finder`; raises `RetrievalError` for texts that are no questions with answers."""
        if asked.questions is None:
            raise RetrievalError("gold needs answers, which text to train on has not: name another retriever")
        return gold_hits(self.searcher, asked.questions, asked.owns, asked.table, k)


class Degraded:
    """What another retriever finds, a share of it replaced by random passages."""

    def __init__(self, base: Finder, share: float, seed: int) -> None:
        self.base, self.share, self.seed = base, share, seed

    def find(self, asked: Asked, k: int) -> Hits:
        """See `Finder`."""
        return degraded_hits(self.base.find(asked, k), asked.keys, asked.pools(), self.share, self.seed)


def random_hits(keys: Sequence[str], pools: Sequence[Pool], k: int, seed: int) -> Hits:
    """`k` random passages of its pool for each text, all different; all of the pool if it has fewer."""
    rows, scores = no_hits(len(keys), k)
    for number, (key, pool) in enumerate(zip(keys, pools, strict=True)):
        drawn = _drawn(_random(seed, key), pool, (), k)
        rows[number, : len(drawn)] = drawn
        scores[number, : len(drawn)] = 0
    return rows, scores


def degraded_hits(hits: Hits, keys: Sequence[str], pools: Sequence[Pool], share: float, seed: int) -> Hits:
    """`hits` of another retriever with a share of each text's neighbors replaced by random ones of its pool.

    Of `m` neighbors floor(m * share + u) are replaced, u uniform in [0, 1) for each text: m * share on average, none at
    share 0, all at 1. A larger share replaces what a smaller one does, by the same passages, and more. Places are
    drawn too; a passage takes the rank of the one it replaces and is none of the text's own neighbors. Where a pool
    has too few others the rest stays, which is counted and logged.
    """
    rows, scores = hits[0].copy(), hits[1].copy()
    kept = 0
    for number, (key, pool) in enumerate(zip(keys, pools, strict=True)):
        source = _random(seed, key)
        neighbors = [int(row) for row in hits[0][number] if row >= 0]
        # rounded, as 0.29 * 100 is a little below 29
        count = min(int(round(len(neighbors) * share, 9) + source.random()), len(neighbors))
        places = list(_shuffled(len(neighbors), source))
        drawn = _drawn(source, pool, neighbors, count)
        kept += count - len(drawn)
        rows[number, places[: len(drawn)]] = drawn
        scores[number, places[: len(drawn)]] = 0
    if kept:
        logger.warning("%d neighbors could not be replaced: their documents have no other passages", kept)
    return rows, scores


def gold_hits(
    searcher: Searcher, questions: Sequence[Example], owns: Sequence[Any] | None, table: PassageTable, k: int
) -> Hits:
    """At most `k` passages that hold each question's answer, the best by BM25 (`searcher`) first.

    With `owns`, the rows of the questions' own documents: passages that hold the marked evidence, those with most of it
    first; without evidence, passages whose text holds an answer. Else, as DPR picks its positive passages, those of the
    whole corpus whose text holds an answer, among the `GOLD_DEPTH` best by BM25. A question for which fewer are known
    gets fewer.
    """
    hits = no_hits(len(questions), k)
    encoded = searcher.encode([example.question for example in questions])
    if owns is None:
        _find_in_corpus(searcher, encoded, questions, table, hits)
        return hits
    texts = table.texts(np.concatenate([*owns, []]))
    for number, (example, rows) in enumerate(zip(questions, owns, strict=True)):
        own = [texts[row] for row in rows.tolist()]
        places = evidence_places(own, example.evidence)
        if not places:
            ranked = best_rows(searcher.score(encoded[number : number + 1], rows)[0], len(own))
            places = [int(place) for place in ranked if holds_answer(own[place], example.answers)]
        _put(hits, number, [int(rows[place]) for place in places[:k]])
    return hits


def _find_in_corpus(searcher: Any, encoded: Any, questions: Sequence[Example], table: PassageTable, hits: Hits) -> None:
    """Look through ever more passages of the questions that still lack some."""
    k = hits[0].shape[1]
    found: list[list[int]] = [[] for _ in questions]
    limit = min(GOLD_DEPTH, searcher.size)
    seen, fetch = 0, min(100, limit)
    pending = list(range(len(questions)))
    while pending and seen < limit:
        size = max(1, TEXTS_AT_ONCE // fetch)
        for part in (pending[start : start + size] for start in range(0, len(pending), size)):
            rows = searcher.search(encoded[part], fetch)[0][:, seen:]
            texts = table.texts(rows)
            for number, ranked in zip(part, rows.tolist(), strict=True):
                answers = questions[number].answers
                found[number] += [row for row in ranked if holds_answer(texts[row], answers)]
        pending = [number for number in pending if len(found[number]) < k]
        seen, fetch = fetch, min(4 * fetch, limit)
    for number, rows in enumerate(found):
        _put(hits, number, rows[:k])


def _put(hits: Hits, number: int, rows: Sequence[int]) -> None:
    hits[0][number, : len(rows)] = rows
    hits[1][number, : len(rows)] = 1


def _random(seed: int, key: str) -> random.Random:
    return random.Random(f"{seed}/{key}")  # noqa: S311


def _drawn(source: random.Random, pool: Pool, excluded: Sequence[int], count: int) -> list[int]:
    """`count` random rows of a pool without those excluded; fewer if it has no more."""
    drawn: list[int] = []
    if count:
        for place in _shuffled(len(pool.rows), source):
            row = int(pool.rows[place])
            if row not in excluded and pool.allowed(row):
                drawn.append(row)
                if len(drawn) == count:
                    break
    return drawn


def _shuffled(n: int, source: random.Random) -> Iterator[int]:
    """The numbers below `n` in random order, each made as it is asked for (Fisher and Yates on a sparse list)."""
    moved: dict[int, int] = {}
    for place in range(n):
        other = place + int(source.random() * (n - place))
        yield moved.get(other, other)
        moved[other] = moved.pop(place, place)
