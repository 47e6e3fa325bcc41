"""How good a retrieval is, before any model reads it: answer recall, and rank of the passages that annotators marked.

Answer recall@k is DPR's (arXiv 2004.04906): the share of questions of whose best k passages at least one holds an
answer, by `holds_answer`. Where evidence is marked (Qasper), hit@k is the share of questions with one of its passages
among the best k, and MRR the mean of 1 / rank of the first one. All values are from 0 to 100.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from retrotune.data.datasets.base import Example
from retrotune.errors import DataError
from retrotune.preparing.examples import load_examples, with_references
from retrotune.retrieval.caches.questions import questions_asked
from retrotune.retrieval.passages import PassageTable
from retrotune.retrieval.search.answers import evidence_places, holds_answer
from retrotune.retrieval.search.opening import open_finder
from retrotune.runtime.files import sha256, write_json
from retrotune.runtime.log import logger
from retrotune.scoring.statistics import cluster_of, score_estimate
from retrotune.study.stages import MeasureRetrievalParams

RANKS = (1, 5, 20, 100)
QUESTIONS_AT_ONCE = 2000


def measure_retrieval(
    params: MeasureRetrievalParams,
    retrieval: str,
    dataset: str,
    examples: str | Path,
    references: str | Path,
    passages: str | Path,
    out: str | Path,
    embeddings: str | Path | None = None,
    index: str | Path | None = None,
) -> None:
    """Search the best `depth` passages of every question and write what they are worth to `out`.

    Searches as `cache_neighbors` does, only deeper: at most all passages of the corpus, or of the question's document.
    Each k of `RANKS` is reported up to the most passages that a question got. `metrics` holds value, 95 % interval and
    number of questions; questions about one document are a cluster. Raises as `cache_neighbors` does, and `DataError`
    without questions.
    """
    own_documents = params.own_documents
    questions = with_references(load_examples(examples), references)
    if not questions:
        raise DataError(f"{examples}: no questions to measure retrieval with; prepare the dataset with some")
    table = PassageTable(passages)
    finder = open_finder(params.retriever, table, embeddings, None if own_documents else index)
    depth = min(params.depth, table.rows)
    answers: list[int | None] = []
    golds: list[tuple[int, int | None]] = []
    most = 0
    for start in range(0, len(questions), QUESTIONS_AT_ONCE):
        part = questions[start : start + QUESTIONS_AT_ONCE]
        rows, _ = finder.find(questions_asked(table, part, own_documents), depth)
        most = max(most, int((rows >= 0).sum(axis=1).max()))
        answers += _first_answers(rows, part, table)
        if own_documents:
            golds += [(start + number, place) for number, place in _first_golds(rows, part, table)]
    ranks = [k for k in RANKS if k <= most]
    every = [cluster_of(question.question_id, question.doc_id) for question in questions]
    values = {f"answer_recall@{k}": (_within(answers, k), every) for k in ranks}
    if golds:
        marked = [every[number] for number, _ in golds]
        places = [place for _, place in golds]
        values |= {f"gold_hit@{k}": (_within(places, k), marked) for k in ranks}
        values["gold_mrr"] = [0.0 if place is None else 100 / (place + 1) for place in places], marked
    write_json(
        out,
        {
            "params": params.recorded(),
            "retrieval": retrieval,
            "dataset": dataset,
            "scale": "0 to 100",
            "questions": len(questions),
            "depth": most,
            "passages": table.rows,
            "metrics": {name: _summarize(*value) for name, value in values.items()},
            "inputs": {"examples": sha256(examples), "references": sha256(references), "passages": table.sha256},
        },
    )
    means = ", ".join(f"{name} {sum(scores) / len(scores):.1f}" for name, (scores, _) in values.items())
    logger.info("%s on %s, %d questions: %s", retrieval, dataset, len(questions), means)


def _first_answers(rows: Any, questions: Sequence[Example], table: PassageTable) -> list[int | None]:
    """Place of the first passage of each question that holds an answer; None if none of them does."""
    texts = table.texts(rows[rows >= 0])
    return [
        next((place for place, row in enumerate(own) if row >= 0 and holds_answer(texts[row], example.answers)), None)
        for own, example in zip(rows.tolist(), questions, strict=True)
    ]


def _first_golds(rows: Any, questions: Sequence[Example], table: PassageTable) -> Iterator[tuple[int, int | None]]:
    """(question, place of its first passage with evidence) where the evidence is in the document's text."""
    owns = [table.rows_of(example.doc_id).tolist() if example.doc_id else [] for example in questions]
    marked = [number for number, example in enumerate(questions) if example.evidence]
    texts = table.texts([row for number in marked for row in owns[number]])
    for number in marked:
        own = owns[number]
        golds = {own[place] for place in evidence_places([texts[row] for row in own], questions[number].evidence)}
        if golds:
            yield number, next((place for place, row in enumerate(rows[number].tolist()) if row in golds), None)


def _within(places: Sequence[int | None], k: int) -> list[float]:
    """100 for each question whose first right passage is among the best k, else 0."""
    return [100.0 * (place is not None and place < k) for place in places]


def _summarize(scores: Sequence[float], clusters: Sequence[str]) -> dict[str, Any]:
    estimate = score_estimate([[score] for score in scores], clusters)
    low, high = estimate.interval() or (None, None)
    return {"value": estimate.value, "ci_low": low, "ci_high": high, "n": len(scores)}
