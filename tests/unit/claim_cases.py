"""A made-up study with known scores, and claims tested in it."""

import itertools
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from retrotune.report.gathering.collect import Result
from retrotune.report.judging.claims import Judgement, judge
from retrotune.scoring.sheets import Sheet, make_sheet
from retrotune.study.config.claim_files import check_claims
from retrotune.study.stages import ClaimTestParams

PARAMETERS = {"a": 1_000_000, "b": 2_000_000, "c": 4_000_000, "d": 8_000_000}
"""Each size has twice the parameters of the one before."""
METHODS = {"zeroshot": "zeroshot", "lora": "lora", "adapter": "adapter", "ptuning": "ptuning"}
RETRIEVERS = {"found": "dense", "none": "none"}
DOCUMENTS, QUESTIONS = 30, 3

Score = Callable[[Result], float]


def cell(
    family: str,
    size: str,
    method: str = "lora",
    dataset: str = "qasper",
    retrieval: str = "found",
    seed: int = 0,
    status: str = "done",
    **changes: Any,
) -> Result:
    """A cell of a model that is named by its family and size."""
    values: dict[str, Any] = {
        "model": f"{family}-{size}",
        "method": method,
        "dataset": dataset,
        "retrieval": retrieval,
        "seed": seed,
        "family": family,
        "size": size,
        "instruct": False,
        "kind": METHODS.get(method, method),
        "trained": method != "zeroshot",
        "metric": "f1",
        "status": status,
        "problem": "out of memory" if status == "failed" else None,
        "num_parameters": PARAMETERS[size] if status == "done" else None,
        "metrics": {"f1": {"value": 0.0}} if status == "done" else {},
        "train": {},
        "predict": {},
    }
    return Result(**(values | changes))


def grid(
    families: Sequence[str] = ("gpt", "retro"),
    sizes: Sequence[str] = ("a", "b"),
    methods: Sequence[str] = ("zeroshot", "lora"),
    datasets: Sequence[str] = ("qasper", "quality"),
    **changes: Any,
) -> list[Result]:
    """All combinations."""
    return [cell(*point, **changes) for point in itertools.product(families, sizes, methods, datasets)]


def sheets_of(results: Sequence[Result], score: Score, noise: float = 5.0) -> dict[str, Sheet]:
    """Scores per question of done cells: the cell's score, and noise of documents whose mean over the cell is 0."""
    clusters = [f"doc{place}" for place in range(DOCUMENTS) for _ in range(QUESTIONS)]
    ids = [f"q{place}" for place in range(len(clusters))]
    found: dict[str, dict[Any, Any]] = {}
    for result in results:
        if result.primary is None:
            continue
        rng = np.random.default_rng(zlib.crc32(result.name.encode()))
        of_documents = rng.normal(0, noise, DOCUMENTS)
        scores = score(result) + np.repeat(of_documents - of_documents.mean(), QUESTIONS)
        found.setdefault(result.dataset, {})[result.cell] = ids, clusters, scores[:, None]
    return {dataset: make_sheet(dataset, "f1", rows) for dataset, rows in found.items()}


def judged(
    results: Sequence[Result], score: Score, noise: float = 5.0, resamples: int = 2000, **claims: dict[str, Any]
) -> dict[str, Judgement]:
    """Claims by name, tested; `says` is filled in."""
    params = ClaimTestParams(
        claims=check_claims({name: {"says": f"{name} holds.", **claim} for name, claim in claims.items()}).items(),
        retrievals=RETRIEVERS,
        resamples=resamples,
    )
    return {found.name: found for found in judge(params, results, sheets_of(results, score, noise))}
