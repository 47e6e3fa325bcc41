"""A small study made by hand, as tables and figures read it: gaps, several runs, names that break pages.

Each question has a score of its own, so that intervals and tests are those of real studies. No model is run.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from retrotune.data.scores import METRICS
from retrotune.report.gathering.base_models import BaseModel
from retrotune.report.gathering.collect import Result
from retrotune.report.tables.measures import Measures
from retrotune.runtime.files import write_json, write_jsonl
from retrotune.scoring.sheets import write_scores
from retrotune.study.cells import Cell
from retrotune.study.config import Config, load_config
from retrotune.study.resolve import making_tables
from retrotune.study.stages import MakeTablesParams

NASTY = '<b>&_%|*`#{x}\\$^~[1]--"é中\n\x1b[31m'
OPEN = tuple((f"q{number}", None) for number in range(24))
OWN = tuple((f"d{document}.{number}", f"d{document}") for document in range(8) for number in range(3))
QUESTIONS: dict[str, Sequence[tuple[str, str | None]]] = {"nq": OPEN, "qmsum": OWN}
METRIC = {"nq": "exact_match", "qmsum": "rouge_geometric"}
TRAINED = {"num_trainable_params": 5000, "num_total_params": 1_005_000, "tokens": 900, "seconds": 3.0}
TRAINED |= {"num_devices": 2, "device": "cpu", "energy_joules": 2700.0, "peak_memory_bytes": 2**30}
Scores = Mapping[str, Sequence[float]]
"""Scores of questions by part."""


def result(
    model: str = "gpt-a",
    method: str = "zeroshot",
    dataset: str = "nq",
    retrieval: str = "bm25",
    seed: int = 0,
    /,
    **changes: Any,
) -> Result:
    """A cell that is done, unless `changes` say otherwise. Family and size are parts of the model's name."""
    family, size = model.split("-")[:2]
    trained = method != "zeroshot"
    values: dict[str, Any] = {
        "family": family,
        "size": size,
        "instruct": False,
        "kind": method,
        "trained": trained,
        "metric": METRIC[dataset],
        "status": "done",
        "problem": None,
        "num_parameters": {"a": 1_000_000, "b": 4_000_000}.get(size),
        "train": TRAINED if trained else {},
        "predict": {"seconds": 1.5, "num_devices": 1, "device": "cpu", "energy_joules": 900.0 if size == "b" else None},
        **changes,
    }
    done = {values["metric"]: {"value": 0.0, "n": len(QUESTIONS[dataset])}} if values["status"] == "done" else {}
    return Result(model, method, dataset, retrieval, seed, metrics=done, **values)


def drawn(name: str, dataset: str, ability: float) -> Scores:
    """Scores of the questions of a dataset: `ability` is their mean, but for chance."""
    coins = random.Random(name)
    if dataset == "nq":
        return {"exact_match": [100.0 * (coins.random() < ability) for _ in OPEN]}
    of_document = {document: coins.gauss(0, 8) for document in dict.fromkeys(document for _, document in OWN)}

    def scores(mean: float) -> list[float]:
        return [min(max(mean + of_document[document] + coins.gauss(0, 10), 0.0), 100.0) for _, document in OWN]

    return {"rouge1": scores(100 * ability), "rouge2": scores(60 * ability), "rougeL": scores(90 * ability)}


def exact(*right: int, of: int = 24) -> dict[str, list[float]]:
    """Exact match of the open questions: the given ones are right."""
    return {"exact_match": [100.0 * (number in right) for number in range(of)]}


def write_study(
    folder: Path,
    results: Iterable[Result],
    scores: Mapping[Cell, Scores] | None = None,
    models: Iterable[BaseModel] = (),
) -> tuple[Path, Path]:
    """results.json and scores.parquet of a study, as `collect_metrics` writes them."""
    results = list(results)
    files = []
    for item in results:
        if item.status != "done":
            continue
        parts = (scores or {}).get(item.cell) or drawn(item.name, item.dataset, 0.5)
        rows = [
            {"question_id": question, "doc_id": document, "type": None, "scores": dict(zip(parts, values, strict=True))}
            for (question, document), *values in zip(QUESTIONS[item.dataset], *parts.values(), strict=True)
        ]
        files.append((item.cell, folder / f"{item.name.replace('/', '-')}.jsonl"))
        write_jsonl(files[-1][1], rows)
    used = dict.fromkeys(item.metric for item in results)
    write_scores(folder / "scores.parquet", files, [name for name in used if name in METRICS])
    collected = {"study": "made-up", "results": list(map(vars, results)), "models": list(map(vars, models))}
    write_json(folder / "results.json", collected)
    return folder / "results.json", folder / "scores.parquet"


def measures(folder: Path, results: Iterable[Result], scores: Mapping[Cell, Scores] | None = None) -> Measures:
    """The study as tables read it."""
    return Measures.load(*write_study(folder, results, scores))


ABILITY = {"gpt-a": 0.25, "gpt-b": 0.35, "retro-a": 0.4, "retro-b": 0.55}


def study() -> tuple[list[Result], dict[Cell, Scores]]:
    """Replicates and seeds, a failed cell, a missing one, an instruction-tuned model, a size that breaks pages."""
    results = []
    for model in ABILITY:
        size = {"size": NASTY} if model == "retro-b" else {}
        for method in ("zeroshot", "lora"):
            for dataset in METRIC:
                for seed in (0, 1) if (model, method) == ("retro-a", "lora") else (0,):
                    results.append(result(model, method, dataset, "bm25", seed, **size))
                if model == "gpt-a":
                    results.append(result("gpt-a-again", method, dataset, "bm25", 0, replicate_of="gpt-a"))
    for method in ("zeroshot", "lora"):
        for dataset in METRIC:
            results.append(result("retro-a-instruct", method, dataset, instruct=True, retrieval_gate=0.0))
    results += [result("gpt-b", "zeroshot", dataset, "none") for dataset in METRIC]
    states = {
        Cell("gpt-b", "lora", "nq", "bm25", 0): {"status": "failed", "problem": f"out of memory {NASTY}"},
        Cell("retro-b", "zeroshot", "qmsum", "bm25", 0): {"status": "missing"},
    }
    results = [
        result(*astuple(item.cell), **{"size": item.size, **states[item.cell]}) if item.cell in states else item
        for item in results
    ]
    scores = {
        item.cell: drawn(
            item.name,
            item.dataset,
            0.0
            if item.retrieval == "none"
            else ABILITY[f"{item.family}-{item.cell.model.split('-')[1]}"] + 0.25 * item.trained + 0.1 * item.instruct,
        )
        for item in results
    }
    return results, scores


def config_of(results: Sequence[Result], **changes: Any) -> Config:
    """A configuration with these cells' models, methods, datasets and retrievals, and published numbers beside them."""
    first = {item.model: item for item in results}
    kinds = {item.method: item.kind for item in results}
    retrievers = {"some": {"kind": "bm25"}}
    found = {"retriever": "some", "corpus": "wiki", "chunking": "words"}
    return load_config(
        {
            "study": "made-up",
            "data_root": "raw",
            "datasets": {name: {"reader": name, "path": name} for name in {item.dataset: None for item in results}},
            "corpora": {"wiki": {"reader": "dpr_passages", "path": "wiki.tsv"}},
            "chunkings": {"words": {"passage_words": 50}},
            "retrievers": retrievers,
            "retrievals": {
                name: {"top_k": 0} if name == "none" else found for name in {item.retrieval: None for item in results}
            },
            "models": {
                name: {
                    "family": item.family,
                    "size": name.split("-")[1],
                    "path": f"somewhere/{name}",
                    "instruct": item.instruct,
                    **({} if item.retrieval_gate is None else {"retrieval_gate": item.retrieval_gate}),
                    **({} if item.replicate_of is None else {"replicate_of": item.replicate_of}),
                }
                for name, item in first.items()
            },
            "methods": {name: {"kind": kind} for name, kind in kinds.items()},
            "grid": [{"retrievals": list({item.retrieval: None for item in results})}],
            **changes,
        }
    )


def params_of(results: Sequence[Result], **changes: Any) -> MakeTablesParams:
    """What tables of these cells use."""
    return making_tables(config_of(results, **changes))


PUBLISHED = """\
family,size,parameters,instruct,encoder,passages,method,dataset,metric,value,label,source,difference
gpt,a,1200000,no,,yes,zeroshot,nq,EM,24.43,"Their model, {x} & <b>","Some & others 2023, 50 %_of it",none_known
gpt,a,2000000,no,,yes,zeroshot,nq,EM,99.9,much larger,Elsewhere,its size
retro,a,,yes,off,yes,lora,qmsum,geo-ROUGE,15,instruct,Elsewhere,other prompts
gpt,b,,no,,no,zeroshot,nq,EM,21.2,closed book,Elsewhere,other data
gpt,b,,no,,yes,zeroshot,nq,F1,77.7,another metric,Elsewhere,the metric
"""
"""Published numbers; the second is of a model of another size than its name says, the last by another metric."""
