"""Collecting hand-made result files: gaps stay visible and nothing is filled in."""

import csv
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from record_cases import metric as value_of
from record_cases import metrics_record, predict_record, predicting, prediction, question_scores, training, write_result

from retrotune.data.datasets import Example
from retrotune.data.scores import parts_of
from retrotune.preparing.examples import write_references
from retrotune.report.gathering.collect import collect_metrics, load_results
from retrotune.report.tables.cost import write_cell_costs
from retrotune.report.tables.making import format_table, make_tables
from retrotune.runtime.files import read_json, sha256, write_json, write_jsonl
from retrotune.scoring.score import score_cell
from retrotune.study.cells import Cell, expand_grid
from retrotune.study.config import Config, load_config
from retrotune.study.paths import Paths
from retrotune.study.resolve import cell_stages, making_tables, resolve

PARAMETERS = {"gpt-a": 1_000_000, "retro-a": 1_100_000, "gpt-b": 4_000_000, "retro-b": 4_500_000}
MISSING = Cell("retro-b", "lora", "nq", "bm25", 0)
FAILED = Cell("gpt-b", "zeroshot", "qmsum", "bm25", 0)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    def model(family: str, size: str) -> dict[str, Any]:
        return {"family": family, "size": size, "path": "somewhere"}

    return load_config(
        {
            "study": "made-up",
            "results_dir": str(tmp_path / "results"),
            "datasets": {"nq": {"reader": "nq", "path": "nq"}, "qmsum": {"reader": "qmsum", "path": "qmsum"}},
            "retrievals": {"bm25": {"top_k": 0}, "none": {"top_k": 0}},
            "models": {name: model(*name.split("-")) for name in PARAMETERS},
            "methods": {"zeroshot": {"kind": "zeroshot"}, "lora": {"kind": "lora"}},
            "grid": [{"retrievals": ["bm25"]}],
        }
    )


def score_of(cell: Cell) -> float:
    """A different score for every cell; the highest on each dataset is retro-b's, with LoRA."""
    place = list(PARAMETERS).index(cell.model)
    return 10.0 + 8 * place + 20 * (cell.method == "lora") + 2 * (cell.dataset == "qmsum") + cell.seed


def write_cell(config: Config, cell: Cell, /, **changes: Any) -> Path:
    score, metric = score_of(cell), {"nq": "exact_match", "qmsum": "rouge_geometric"}[cell.dataset]
    trained = training(
        num_trainable_params=5000,
        num_total_params=PARAMETERS[cell.model],
        tokens=9000,
        seconds=3.0,
        peak_memory_bytes=2**30,
        adapter_bytes=20_000,
        steps=40,
    )
    model = {"num_parameters": PARAMETERS[cell.model], "fingerprint": f"weights of {cell.model}", "departures": []}
    record = metrics_record(
        cell,
        cell.method == "lora",
        model=model,
        metrics={metric: value_of(score, n=50), "f1": value_of(score, primary=False, n=50) | {"value": score + 1}},
        train=trained if cell.method == "lora" else None,
        predict=predicting(seconds=1.5, peak_memory_bytes=2**29),
    )
    lines = [question_scores(f"q{n}", **dict.fromkeys(parts_of([metric, "f1"]), score)) for n in range(50)]
    return write_result(Paths.of(config).cell(cell), {**record, **changes}, lines)


def collect(config: Config, folder: Path) -> Path:
    """As the workflow does it."""
    params = resolve(config, "collect_metrics", {})
    written = (folder / name for name in ("metrics.csv", "results.json", "scores.parquet"))
    collect_metrics(params, Paths.of(config), *written)
    return folder / "results.json"


@pytest.fixture
def collected(config: Config, tmp_path: Path) -> Path:
    """Results of all cells but one that is missing and one that failed."""
    for cell in expand_grid(config):
        if cell == FAILED:
            write_cell(config, cell, status="failed", problem="out of memory")
        elif cell != MISSING:
            write_cell(config, cell)
    return collect(config, tmp_path)


def test_every_cell_is_collected_with_its_status(collected: Path, config: Config) -> None:
    results = {Cell(r.model, r.method, r.dataset, r.retrieval, r.seed): r for r in load_results(collected)}
    assert list(results) == expand_grid(config)
    assert results[MISSING].status == "missing"
    assert (results[FAILED].status, results[FAILED].problem) == ("failed", "out of memory")
    assert results[FAILED].primary is None
    assert all(result.status == "done" for cell, result in results.items() if cell not in (MISSING, FAILED))

    with open(collected.parent / "metrics.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * (len(results) - 2) + 2  # two metrics per cell, one empty row per gap
    gaps = [row for row in rows if row["status"] != "done"]
    assert [row["value"] for row in gaps] == ["", ""]
    assert {row["metric"] for row in gaps} == {"exact_match", "rouge_geometric"}


@pytest.mark.parametrize("content", ["{", '{"status": "done"}', '{"status": "done", "cell": {"model": "x"}}', "[]"])
def test_a_damaged_result_is_shown_not_believed(collected: Path, config: Config, content: str) -> None:
    cell = expand_grid(config)[0]
    Path(Paths.of(config).cell(cell, "metrics.json")).write_text(content, encoding="utf-8")
    collect(config, collected.parent)
    assert load_results(collected)[0].status == "damaged"


def test_the_result_of_another_cell_is_refused(collected: Path, config: Config) -> None:
    first, second = expand_grid(config)[:2]
    write_cell(config, first, cell=vars(second))
    collect(config, collected.parent)
    result = load_results(collected)[0]
    assert result.status == "damaged"
    assert second.name in (result.problem or "")


def test_scores_of_answers_that_were_made_anew_since_are_not_shown(collected: Path, config: Config) -> None:
    first, second = expand_grid(config)[:2]
    for cell, answers in ((first, "other answers"), (second, "the same answers")):
        metrics = Path(Paths.of(config).cell(cell, "metrics.json"))
        predictions = metrics.with_name("predictions.jsonl")
        predictions.write_text("the same answers", encoding="utf-8")
        record = metrics_record(cell)
        write_cell(config, cell, inputs={**record["inputs"], "predictions": sha256(predictions)})
        predictions.write_text(answers, encoding="utf-8")
        later = metrics.stat().st_mtime + 5
        os.utime(predictions, (later, later))
    results = load_results(collect(config, collected.parent))
    assert (results[0].status, results[0].primary, results[0].metrics) == ("damaged", None, {})
    assert "metrics.json: older than its predictions: run snakemake" in (results[0].problem or "")
    assert results[1].status == "done", "the same answers, later"


KEYS, TIED = "keys are mixed", "embeddings are tied"


def test_departures_travel_from_the_prediction_to_every_form(config: Config, collected: Path, tmp_path: Path) -> None:
    cell = Cell("gpt-a", "zeroshot", "nq", "bm25", 0)
    predictions, references = tmp_path / "predictions.jsonl", tmp_path / "references.parquet"
    write_jsonl(predictions, [prediction(f"q{number}", "Tamo") for number in range(50)])
    write_references(references, [Example(f"q{number}", "Who?", ("Tamo",)) for number in range(50)])
    for other in expand_grid(config):  # they were not scored by these references
        if other != cell and other.dataset == cell.dataset:
            shutil.rmtree(Paths.of(config).cell(other), ignore_errors=True)
    params = cell_stages(config, cell)["score_cell"]
    metrics = Path(Paths.of(config).cell(cell, "metrics.json"))
    for expected in ([], [KEYS, TIED]):
        facts = {"num_parameters": 5, "departures": expected, "fingerprint": None, "params": None}
        write_json(tmp_path / "predict.json", predict_record(model=facts))
        inputs = (predictions, tmp_path / "predict.json", references, None)
        score_cell(params, cell, *inputs, metrics.with_name("scores.jsonl"), metrics)
        assert read_json(metrics)["model"]["departures"] == expected
        collect(config, collected.parent)
        assert load_results(collected)[0].departures == expected
    tables = making_tables(config), collected, collected.with_name("scores.parquet")
    make_tables(*tables, tmp_path / "tables")
    for suffix in ("md", "tex", "html"):
        assert f"{KEYS}; {TIED}" in (tmp_path / f"tables/comparison.{suffix}").read_text(encoding="utf-8")
    assert f"{KEYS}; {TIED}" in format_table(*tables)
    assert KEYS not in (tmp_path / "tables/comparison.csv").read_text(encoding="utf-8")


def test_collected_results_of_older_runs_are_read(collected: Path) -> None:
    older = read_json(collected)
    for record in older["results"]:
        del record["departures"]
    expected = load_results(collected)
    write_json(collected, older)
    assert load_results(collected) == expected


def test_costs_of_each_cell(collected: Path, tmp_path: Path) -> None:
    results = load_results(collected)
    write_cell_costs(results, tmp_path / "cells.csv")
    with open(tmp_path / "cells.csv", newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == len(results)
    assert {line["train_seconds"] for line in lines} == {"", "3.0"}
