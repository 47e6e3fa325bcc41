"""A made-up study whose cells answer as a function says, scored and collected by the real stages."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from record_cases import predict_record, prediction, train_record

from retrotune.data.datasets import Example
from retrotune.preparing.examples import write_references
from retrotune.report.gathering.collect import Result, collect_metrics, load_results, load_sheets
from retrotune.runtime.files import write_json, write_jsonl
from retrotune.scoring.score import score_cell
from retrotune.scoring.sheets import Sheet
from retrotune.study.cells import Cell, expand_grid
from retrotune.study.config import Config, load_config
from retrotune.study.paths import Paths
from retrotune.study.resolve import resolve

Say = Callable[[Cell, int], str | None]
"""What a cell answers to a question by its number; None: the cell is not done."""

QUESTIONS, DOCUMENTS = 40, 8


def examples(dataset: str, own_documents: bool, questions: int = QUESTIONS) -> list[Example]:
    """Questions with the answer `right`; five of each document where they have one."""
    return [
        Example(f"{dataset}:{n}", "Who?", ("right one",), f"d{n % DOCUMENTS}" if own_documents else None)
        for n in range(questions)
    ]


def study(folder: Path, models: Mapping[str, Mapping[str, Any]], **keys: Any) -> Config:
    """A study in `folder`: nq (open domain), narrativeqa; zeroshot, ptuning, lora; unless `keys` differ."""
    raw = {
        "study": "made-up",
        "results_dir": str(folder / "results"),
        "resources_dir": str(folder / "resources"),
        "datasets": {"nq": {"reader": "nq", "path": "nq"}, "narrativeqa": {"reader": "narrativeqa", "path": "tales"}},
        "retrievals": {"none": {"top_k": 0}},
        "models": {name: {"path": f"models/{name}", **entry} for name, entry in models.items()},
        "methods": {"zeroshot": {"kind": "zeroshot"}, "ptuning": {"kind": "ptuning"}, "lora": {"kind": "lora"}},
        "grid": [{"retrievals": ["none"]}],
        "evaluation": {"resamples": 500},
    }
    return load_config({**raw, **keys})


def score_cells(config: Config, say: Say, parameters: Mapping[str, int], cells: Iterable[Cell] | None = None) -> None:
    """Predictions of cells, and what scoring makes of them."""
    paths = Paths.of(config)
    for cell in expand_grid(config) if cells is None else cells:
        references = Path(paths.references(cell.dataset, "test"))
        asked = examples(cell.dataset, not config.is_open_domain(cell.dataset))
        if not references.exists():
            write_references(references, asked)
        said = [say(cell, number) for number in range(len(asked))]
        if None in said:
            continue
        files = {name: Path(paths.cell(cell, name)) for name in ("predictions.jsonl", "predict.json", "train.json")}
        records = [prediction(example.question_id, text) for example, text in zip(asked, said, strict=True)]
        write_jsonl(files["predictions.jsonl"], records)
        trained = config.methods[cell.method].trained
        count = parameters[cell.model]
        if trained:
            write_json(files["train.json"], train_record(num_trainable_params=500, num_total_params=count))
        model = {"num_parameters": count, "departures": [], "params": {"version": 2}, "fingerprint": cell.model}
        write_json(files["predict.json"], predict_record(model=model))
        params = resolve(config, "score_cell", vars(cell))
        outputs = (paths.cell(cell, name) for name in ("scores.jsonl", "metrics.json"))
        train = files["train.json"] if trained else None
        score_cell(params, cell, files["predictions.jsonl"], files["predict.json"], references, train, *outputs)


def collected(config: Config, folder: Path) -> tuple[list[Result], dict[str, Sheet]]:
    """What collecting makes of a study."""
    files = [folder / name for name in ("metrics.csv", "results.json", "scores.parquet")]
    collect_metrics(resolve(config, "collect_metrics", {}), Paths.of(config), *files)
    results = load_results(files[1])
    return results, load_sheets(files[2], results)
