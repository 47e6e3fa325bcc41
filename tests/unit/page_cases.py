"""A small study with texts that break pages, and its report, made by the workflow's own stages; no model is run."""

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from record_cases import predict_record, prediction, train_record

from retrotune.data.datasets import Example
from retrotune.preparing.examples import write_examples, write_references
from retrotune.report.gathering.collect import read_cells
from retrotune.report.so_far import report_so_far
from retrotune.runtime.files import write_json, write_jsonl
from retrotune.scoring.score import score_cell
from retrotune.study.cells import Cell, expand_grid
from retrotune.study.config import Config, load_config
from retrotune.study.paths import Paths
from retrotune.study.resolve import resolve

EVIL = "</script><script>document.title = 'broken'</script><img src=x onerror=\"document.title='broken'\">"
HEBREW, FOUR_BYTES = "מי כתב את הספר", "𝔐𝔦𝔯𝔞 🜁"
LONG = "a-name-of-sixty-characters-" + "x" * 33
LONG_ID = "an id of two hundred characters " + "x" * 168
SIZES = {"a": 1_000_000, "b": 4_000_000}
QUESTIONS = 12
Say = Callable[[Cell, Example, int], str | None]
"""What a cell answers to a question by its number; None: the cell is not done."""


def study(folder: Path, **changes: Any) -> Config:
    """Two families, two sizes, three methods, one of them with a long name; an open dataset and one with documents."""
    models = {f"{family}-{size}": (family, size) for family in ("gpt", "retro") for size in SIZES}
    raw = {
        "study": "pages",
        "results_dir": str(folder / "results"),
        "resources_dir": str(folder / "resources"),
        "data_root": str(folder / "raw"),
        "datasets": {"nq": {"reader": "nq", "path": "nq"}, "quality": {"reader": "quality", "path": "quality"}},
        "corpora": {"wiki": {"reader": "dpr_passages", "path": "wiki.tsv"}},
        "chunkings": {"words": {"passage_words": 50}},
        "retrievers": {"some": {"kind": "bm25"}},
        "retrievals": {"two": {"retriever": "some", "corpus": "wiki", "chunking": "words", "top_k": 2}},
        "models": {
            name: {"family": family, "size": size, "path": f"models/{name}"} for name, (family, size) in models.items()
        },
        "methods": {"zeroshot": {"kind": "zeroshot"}, "lora": {"kind": "lora"}, LONG: {"kind": "ptuning"}},
        "grid": [{"retrievals": ["two"]}],
        "evaluation": {"resamples": 200, "retrieval_depth": 0},
    }
    return load_config({**raw, **changes})


def asked(dataset: str, questions: int = QUESTIONS) -> list[Example]:
    """Questions: the first three hold markup, a script from right to left, and four-byte letters."""
    texts = dict(enumerate([EVIL, HEBREW, f"Who is {FOUR_BYTES}?"]))
    return [
        Example(
            LONG_ID if number == 3 else f"{dataset}:{number}",
            texts.get(number, f"What is number {number}?"),
            (f"right {number}",),
            None if dataset == "nq" else f"document {number // 3}",
            () if dataset == "nq" else (f"right {number}", "wrong", EVIL),
        )
        for number in range(questions)
    ]


def write_data(config: Config, questions: int = QUESTIONS) -> None:
    """Questions, references and passages; of every other question the second passage holds the answer."""
    paths = Paths.of(config)
    for dataset in config.datasets:
        examples = asked(dataset, questions)
        write_examples(paths.examples(dataset, "test"), examples, with_answer=False)
        write_references(paths.references(dataset, "test"), examples)
        rows = [
            (example.question_id, rank, f"{number}.{rank}", EVIL, f"It says Right  {number} if {rank}. {EVIL}", 1.0)
            if rank and number % 2
            else (example.question_id, rank, f"{number}.{rank}", "Title", f"Nothing of {number}. {HEBREW}", 1.0)
            for number, example in enumerate(examples)
            for rank in range(2)
        ]
        cache = Path(paths.neighbors("two", dataset, "test"))
        cache.parent.mkdir(parents=True, exist_ok=True)
        columns = ["question_id", "rank", "passage_id", "title", "text", "score"]
        pd.DataFrame(rows, columns=columns).to_parquet(cache)


def says(cell: Cell, example: Example, number: int) -> str | None:
    """Larger and tuned models are right more often; one cell is not done."""
    if (cell.model, cell.method, cell.dataset) == ("gpt-b", "lora", "nq"):
        return None
    share = 0.25 + 0.2 * cell.model.endswith("b") + 0.3 * (cell.method != "zeroshot")
    return example.answers[0] if random.Random(f"{cell.name} {number}").random() < share else EVIL


def write_cells(config: Config, say: Say = says, questions: int = QUESTIONS) -> None:
    """Predictions of cells, and what scoring makes of them."""
    paths = Paths.of(config)
    for cell in expand_grid(config):
        examples = asked(cell.dataset, questions)
        said = [say(cell, example, number) for number, example in enumerate(examples)]
        if None in said:
            continue
        records = [
            prediction(
                example.question_id,
                text,
                text=f" {text}\nQuestion:",
                context_ids=[f"{number}.0"] if cell.model.startswith("retro") else [f"{number}.0", f"{number}.1"],
                neighbor_ids=[f"{number}.1"] if cell.model.startswith("retro") else [],
                num_truncated_tokens=3 * (number == 4),
                num_new_tokens=5,
            )
            for number, (example, text) in enumerate(zip(examples, said, strict=True))
        ]
        write_scored(paths, config, cell, records)


def write_scored(paths: Paths, config: Config, cell: Cell, records: list[Mapping[str, Any]]) -> None:
    """One cell's files."""
    files = {name: Path(paths.cell(cell, name)) for name in ("predictions.jsonl", "predict.json", "train.json")}
    write_jsonl(files["predictions.jsonl"], records)
    count = SIZES[cell.model.rpartition("-")[2]]
    trained = config.methods[cell.method].trained
    if trained:
        write_json(files["train.json"], train_record(num_trainable_params=500, num_total_params=count))
        lines = [{"step": step, "loss": 3 - step / 10} for step in range(1, 11)]
        write_jsonl(files["train.json"].with_name("train_log.jsonl"), lines)
    model = {"num_parameters": count, "departures": [], "params": {"version": 2}, "fingerprint": cell.model}
    write_json(files["predict.json"], predict_record(model=model))
    outputs = (paths.cell(cell, name) for name in ("scores.jsonl", "metrics.json"))
    train = files["train.json"] if trained else None
    references = paths.references(cell.dataset, "test")
    used = resolve(config, "score_cell", vars(cell))
    score_cell(used, cell, files["predictions.jsonl"], files["predict.json"], references, train, *outputs)


def report_of(config: Config) -> Path:
    """The study's report, made as of an unfinished study, with all tables and figures."""
    report_so_far(config, read_cells(config))
    return Path(Paths.of(config).so_far("report.html"))
