"""Neighbor caches put to the test: every block whole and made from what is asked, and a sample searched again."""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrotune.data.datasets.base import Passage
from retrotune.errors import RetrievalError
from retrotune.retrieval.caches.questions import (
    blocks_folder,
    load_neighbors,
    load_questions,
    manifest_path,
    question_search_digest,
    questions_asked,
    questions_digest,
)
from retrotune.retrieval.caches.results import Search, from_relative, read_blocks, read_manifest
from retrotune.retrieval.caches.texts import (
    pretraining_texts,
    read_keys,
    text_search_digest,
    texts_asked,
    texts_digest,
)
from retrotune.retrieval.passages import PassageTable
from retrotune.retrieval.search.hits import Hits
from retrotune.retrieval.search.opening import open_finder
from retrotune.runtime.log import Progress
from retrotune.study.artifacts import Artifacts
from retrotune.study.config import Config, CorpusEntry, RetrievalEntry

SCORE_TOLERANCE = 1e-3
"""Relative: another number of threads or bfloat16 changes scores by less."""
DEEPER = 64
"""Ranks searched beyond the cache's where passages differ, to tell a tie from an error."""


def study_caches(config: Config) -> dict[str, RetrievalEntry]:
    """The neighbor caches that the study's cells and base models read, as far as they exist, with their retrievals."""
    found = {search.cache.path: config.retrievals[search.retrieval] for search in Artifacts(config).searches()}
    return {path: entry for path, entry in found.items() if Path(path).is_file()}


def verify_cache(
    path: str | Path, config: Config, entry: RetrievalEntry, sample: int = 100, seed: int = 0
) -> dict[str, int]:
    """Check a cache of questions (`.parquet`) or of training text (`.json`) against the study; counts of what was done.

    All blocks must be whole, made from the texts, passages, vectors, index and retriever as they are now, and for
    questions say what the parquet file says. A seeded sample of texts is searched again: scores may differ by
    `SCORE_TOLERANCE`, and passages with scores that equal may stand in another order. Raises `RetrievalError` naming
    the cache and the question or chunk that is not so.
    """
    questions = Path(path).suffix == ".parquet"
    remedy = f"delete {path} and run snakemake again"
    manifest_file = manifest_path(path) if questions else Path(path)
    manifest = read_manifest(manifest_file, remedy)
    request = manifest.get("request")
    if not isinstance(request, dict):
        raise RetrievalError(f"{path}: its manifest does not say what was searched; {remedy}")
    assert entry.retriever is not None
    if manifest.get("continuation") != entry.continuation:
        raise RetrievalError(f"{path}: not made with continuation: {entry.continuation}, as the study says; {remedy}")
    kept = Search.requested(manifest_file, request)
    retriever = config.searches_with(entry.retriever)
    search = Search(retriever, entry.top_k, kept.passages, kept.embeddings, kept.index)
    table = PassageTable(search.passages)
    asked = (
        _Questions(path, request, search, table, entry.continuation)
        if questions
        else _Texts(path, request, search, table)
    )
    records, texts = manifest["blocks"], manifest["texts"]
    chosen = np.sort(np.random.default_rng(seed).choice(texts, min(sample, texts), replace=False))
    sampled: list[Any] = []
    hits: list[tuple[Any, Any]] = []
    blocks = zip(records, read_blocks(blocks_folder(path), records, remedy), asked.blocks(records), strict=True)
    with Progress("texts checked", texts) as shown:
        for record, (start, arrays), block in blocks:
            end = start + record["rows"]
            if record["made_from"] != asked.digest(block):
                raise RetrievalError(
                    f"{path}: texts {start} to {end - 1} were not searched as the study says now: texts, passages, "
                    f"retriever or index have changed; {remedy}"
                )
            wrong = asked.misplaced(block, arrays)
            if wrong is not None:
                raise RetrievalError(f"{path}: {wrong}; {remedy}")
            for place in chosen[(chosen >= start) & (chosen < end)] - start:
                sampled.append(block[place])
                hits.append((arrays["rows"][place], arrays["scores"][place]))
            shown.advance(record["rows"])
    if sampled:
        rows, scores = (np.stack(part) for part in zip(*hits, strict=True))
        different = first_difference((rows, scores), sampled, asked.find, table.rows)
        if different is not None:
            number, what = different
            raise RetrievalError(f"{path}: {asked.name(sampled[number])}: {what}; {remedy}")
    return {"blocks": len(records), "texts": texts, "sampled": len(sampled)}


def first_difference(
    hits: Hits, texts: Sequence[Any], find: Callable[[Sequence[Any], int], Hits], size: int
) -> tuple[int, str] | None:
    """(number of the first text whose `hits` are not what `find(texts, k)` gives, how they differ); None if all agree.

    Of passages with equal scores any may be there: a passage that does not stand where it is found must be among the
    `DEEPER` next ones with the score that it has. `size` is the number of passages that can be found.
    """
    rows, scores = hits
    again_rows, again_scores = find(texts, rows.shape[1])
    for number in range(len(rows)):
        same = np.isclose(scores[number], again_scores[number], rtol=SCORE_TOLERANCE, atol=1e-6)
        if not same.all():
            rank = int(np.flatnonzero(~same)[0])
            kept, found = (float(values[number, rank]) for values in (scores, again_scores))
            return number, f"rank {rank} has score {kept:.6g}, searching again finds {found:.6g}"
        if (rows[number] == again_rows[number]).all():
            continue
        found_rows, found_scores = find(texts[number : number + 1], min(rows.shape[1] + DEEPER, size))
        score_of = dict(zip(found_rows[0].tolist(), found_scores[0].tolist(), strict=True))
        seen: set[int] = set()
        for rank, (row, score) in enumerate(zip(rows[number].tolist(), scores[number].tolist(), strict=True)):
            fits = row in score_of and np.isclose(score, score_of[row], rtol=SCORE_TOLERANCE, atol=1e-6)
            if not fits or (row in seen and row >= 0):
                return number, f"rank {rank} has passage row {row}, searching again finds {again_rows[number, rank]}"
            seen.add(row)
    return None


class _Asked:
    """The texts that a cache was made for, as they are now, and the study's search."""

    def __init__(self, path: str | Path, search: Search, table: PassageTable, digest: str) -> None:
        self.path, self.table, self.search_digest = Path(path), table, digest
        self.finder = functools.cache(lambda: open_finder(search.retriever, table, search.embeddings, search.index))

    def stream(self) -> Iterator[Any]:
        """All texts in order."""
        raise NotImplementedError

    def digest(self, block: Sequence[Any]) -> str:
        """What a block of these texts is made from."""
        raise NotImplementedError

    def misplaced(self, block: Sequence[Any], arrays: Mapping[str, Any]) -> str | None:
        """Which text the cache gives otherwise than its block says, and how; None if there is none."""
        raise NotImplementedError

    def name(self, text: Any) -> str:
        """What to call a text."""
        raise NotImplementedError

    def find(self, texts: Sequence[Any], k: int) -> Hits:
        """Search again."""
        raise NotImplementedError

    def blocks(self, records: Sequence[Mapping[str, Any]]) -> Iterator[list[Any]]:
        """The texts of each block; `RetrievalError` if there are more of them than blocks."""
        stream = self.stream()
        for record in records:
            yield list(itertools.islice(stream, record["rows"]))
        if next(stream, None) is not None:
            raise RetrievalError(
                f"{self.path}: there are more texts now than it holds; delete it and run snakemake again"
            )


class _Questions(_Asked):
    def __init__(
        self, path: str | Path, request: Mapping[str, Any], search: Search, table: PassageTable, continuation: bool
    ) -> None:
        self.own: bool = request["own_documents"]
        self.continuation = continuation
        super().__init__(path, search, table, question_search_digest(search, table, self.own))
        files = (from_relative(request[name], manifest_path(path)) for name in ("examples", "references"))
        self.questions = load_questions(*files)
        self.given = load_neighbors(path)

    def stream(self) -> Iterator[Any]:
        return iter(self.questions)

    def digest(self, block: Sequence[Any]) -> str:
        return questions_digest(self.search_digest, block)

    def misplaced(self, block: Sequence[Any], arrays: Mapping[str, Any]) -> str | None:
        rows, found = arrays["rows"], arrays["rows"] >= 0
        taken = self.table.given(rows[found], self.continuation)
        texts = (taken[name].to_pylist() for name in ("passage_id", "title", "text"))
        due = iter([Passage(*values) for values in zip(*texts, arrays["scores"][found].tolist(), strict=True)])
        for question, count in zip(block, found.sum(axis=1).tolist(), strict=True):
            pairs = itertools.zip_longest(self.given.get(question.question_id, ()), itertools.islice(due, count))
            for rank, (given, kept) in enumerate(pairs):
                if given != kept:
                    return f"{self.name(question)}: rank {rank} of the file is {given}, of its block {kept}"
        return None

    def name(self, text: Any) -> str:
        return f"question {text.question_id!r}"

    def find(self, texts: Sequence[Any], k: int) -> Hits:
        return self.finder().find(questions_asked(self.table, texts, self.own), k)


class _Texts(_Asked):
    def __init__(self, path: str | Path, request: Mapping[str, Any], search: Search, table: PassageTable) -> None:
        self.source: str = request["source"]
        super().__init__(path, search, table, text_search_digest(search, table, self.source))
        self.request = request

    def stream(self) -> Iterator[Any]:
        corpora = {name: CorpusEntry.model_validate(entry) for name, entry in self.request["corpora"].items()}
        root, tokenizer = (from_relative(self.request[name], self.path) for name in ("root", "tokenizer"))
        return pretraining_texts(corpora, root, tokenizer, self.request["chunk_length"])

    def digest(self, block: Sequence[Any]) -> str:
        return texts_digest(self.search_digest, block)

    def misplaced(self, block: Sequence[Any], arrays: Mapping[str, Any]) -> str | None:
        pairs = itertools.zip_longest(read_keys(self.path, arrays).pairs(), block)
        return next((f"{self.name(text)}: its rows are kept for {key}" for key, text in pairs if key != text[:2]), None)

    def name(self, text: Any) -> str:
        return f"document {text[0]!r}, chunk {text[1]}"

    def find(self, texts: Sequence[Any], k: int) -> Hits:
        return self.finder().find(texts_asked(self.table, texts, self.source), k)
