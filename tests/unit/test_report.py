"""Collecting, tables and figures over hand-made result files: gaps stay visible and nothing is filled in."""

import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from record_cases import metric as value_of
from record_cases import metrics_record, predict_record, predicting, prediction, question_scores, training, write_result

from retrotune.data.datasets import Example
from retrotune.data.scores import parts_of
from retrotune.preparing.examples import write_references
from retrotune.report.collect import Result, collect_metrics, load_results
from retrotune.report.cost import cost_table, write_cell_costs
from retrotune.report.plots import plot_scaling, points, save, scaling_chart
from retrotune.report.render import FORMS, Table
from retrotune.report.tables import comparison_table, format_table, make_tables, retrieval_table
from retrotune.runtime.files import read_json, sha256, write_json, write_jsonl
from retrotune.scoring.score import score_cell
from retrotune.study.cells import Cell, expand_grid
from retrotune.study.config import Config, load_config
from retrotune.study.paths import Paths
from retrotune.study.resolve import cell_stages, resolve

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
    lines = [question_scores("q1", **dict.fromkeys(parts_of([metric, "f1"]), score))]
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


def test_comparison_table_in_the_papers_shape(collected: Path) -> None:
    table = comparison_table(load_results(collected))
    assert table.columns == ["Family", "Size", "Method", "nq (EM)", "qmsum (geo-ROUGE)", "Average"]
    assert [row[:3] for row in table.rows[:3]] == [
        ["GPT", "a (1.00M)", "zeroshot"],
        ["GPT", "a (1.00M)", "lora"],
        ["GPT", "b (4.00M)", "zeroshot"],
    ]
    assert table.rows[0][3:] == [10.0, 12.0, 11.0]
    assert table.rows[2][3:] == [26.0, "failed", None]  # no number, and no average over the rest
    assert table.rows[-1][:4] == ["RETRO", "b (4.50M)", "lora", None]
    assert table.best == {(3, 3), (7, 4), (3, 5)}  # the best that is there
    notes = "\n".join(table.notes)
    assert f"{MISSING.name} (missing)" in notes
    assert f"{FAILED.name} (failed)" in notes
    assert "2 of 16 cells" in notes


def test_a_column_of_equal_values_has_no_best() -> None:
    table = Table("t", ["row", "a", "b"], [["x", 0.01, 1.0], ["y", 0.02, 2.0], ["z", None, 2.01]], 1, [".1f", ".1f"])
    table.mark_best()
    assert table.best == {(1, 2), (2, 2)}


def test_all_forms_show_the_dash_and_the_best(collected: Path, tmp_path: Path) -> None:
    assert make_tables(collected, tmp_path / "tables") == ["comparison", "cost"]
    texts = {suffix: (tmp_path / f"tables/comparison.{suffix}").read_text(encoding="utf-8") for suffix in FORMS}
    assert "| GPT | b (4.00M) | zeroshot | 26.0 | failed | – |" in texts["md"]
    assert "**48.0**" not in texts["md"].replace("\\", "").split("qmsum")[0]
    assert "**46.0**" in texts["md"]
    assert r"\textbf{46.0}" in texts["tex"]
    assert r"zeroshot & 26.0 & failed & -- \\" in texts["tex"]
    assert "<b>46.0</b>" in texts["html"]
    assert "GPT,b (4.00M),zeroshot,26.0,failed,-" in texts["csv"]
    for suffix in ("md", "tex", "html"):
        assert "retro-b/lora/nq/bm25/seed0" in texts[suffix].replace("\\", "")
    terminal = format_table(collected)
    assert "46.0*" in terminal
    assert "retro-b/lora/nq/bm25/seed0 (missing)" in terminal


def test_seeds_are_averaged_and_stated(collected: Path) -> None:
    results = load_results(collected)
    entry = {"value": 30.0, "ci_low": 28.0, "ci_high": 32.0, "n": 50}
    second = [replace(r, seed=1, metrics={r.metric: entry} if r.primary else {}) for r in results]
    table = comparison_table(results + second)
    assert table.rows[0][3:] == [20.0, 21.0, 20.5]
    assert any("2 seeds (0, 1)" in note for note in table.notes)


def test_retrievals_side_by_side(collected: Path, tmp_path: Path) -> None:
    results = load_results(collected)
    assert retrieval_table(results) is None
    control = replace(results[0], retrieval="none", metrics={"exact_match": {"value": 2.0, "ci_low": None, "n": 50}})
    table = retrieval_table([*results, control])
    assert table is not None
    assert table.rows == [["GPT", "a (1.00M)", "zeroshot", "nq (EM)", 10.0, 2.0]]
    both = comparison_table([*results, control])
    assert both.columns[3] == "Retrieval"
    assert both.rows[1] == ["GPT", "a (1.00M)", "zeroshot", "none", 2.0, None, None]


def test_models_of_one_family_and_size_are_told_apart(collected: Path) -> None:
    results = load_results(collected)
    other = replace(results[0], model="gpt-other")
    assert "Model" in comparison_table([*results, other]).columns
    instruct = replace(results[0], model="gpt-a-instruct", instruct=True)
    table = comparison_table([*results, instruct])
    assert "Model" not in table.columns
    assert table.rows[-1][0] == "GPT instruct"


def test_gates_are_told_apart(collected: Path) -> None:
    results = [result for result in load_results(collected) if result.model == "retro-a"]
    gates = {None: "", 1.0: "", 0.0: ", encoder off", 0.5: ", gate 0.5"}
    for instruct, family in ((False, "RETRO"), (True, "RETRO instruct")):
        arms = [replace(results[0], instruct=instruct, retrieval_gate=gate).arm for gate in gates]
        assert arms == [family + marked for marked in gates.values()]
    off = [replace(r, model="retro-off", instruct=True, retrieval_gate=0.0) for r in results]
    table = comparison_table([*results, *off])
    assert "Model" not in table.columns
    assert {row[0] for row in table.rows} == {"RETRO", "RETRO instruct, encoder off"}


KEYS, TIED, LAYERS = "keys are mixed", "embeddings are tied", "cross-attention in layers [1, 3] (0-based)"


@pytest.mark.parametrize(
    ("departures", "stated"),
    [
        ({}, None),
        ({"gpt": [KEYS, TIED], "retro": [KEYS, TIED]}, f"{KEYS}; {TIED}."),
        ({"gpt": [KEYS], "retro": [LAYERS, KEYS, TIED]}, f"{KEYS}; RETRO only: {LAYERS}; {TIED}."),
        ({"gpt": [KEYS], "retro": [TIED]}, f"GPT only: {KEYS}; RETRO only: {TIED}."),
        ({"gpt": [KEYS]}, f"GPT only: {KEYS}."),
    ],
)
def test_departures_stand_below_the_comparison(
    collected: Path, departures: dict[str, list[str]], stated: str | None
) -> None:
    results = [replace(r, departures=departures.get(r.family, [])) for r in load_results(collected)]
    notes = [note for note in comparison_table(results).notes if "architecture" in note]
    assert notes == ([f"Models depart from NVIDIA's architecture: {stated}"] if stated else [])


def test_a_model_that_was_made_anew_between_its_cells_is_named(collected: Path) -> None:
    results = load_results(collected)

    def said(changed: list[Result]) -> list[str]:
        return [note for note in comparison_table(changed).notes if "cannot be compared" in note]

    assert said(results) == []
    other = [replace(r, fingerprint="older") if r.model == "gpt-a" and r.dataset == "nq" else r for r in results]
    (note,) = said(other)
    assert "gpt-a" in note
    assert "older, weights of gpt-a" in note
    assert "retro-a" not in note
    unscored = [replace(r, status="missing") if r.fingerprint == "older" else r for r in other]
    assert said(unscored) == [], "cells without a score rest on nothing"
    unknown = [replace(r, fingerprint=None) if r.fingerprint == "older" else r for r in other]
    assert said(unknown) == [], "a model whose weights nobody knows"


def test_departures_of_one_family_and_of_some_models(collected: Path) -> None:
    results = [replace(r, departures=[LAYERS] if r.model == "retro-b" else []) for r in load_results(collected)]
    retro = [result for result in results if result.family == "retro"]
    assert comparison_table(retro).notes[-2].endswith(f"architecture: {LAYERS}.")
    unscored = [replace(r, status="missing") if r.family == "gpt" else r for r in results]
    assert any(note.endswith(f"architecture: {LAYERS}.") for note in comparison_table(unscored).notes)


def test_departures_travel_from_the_prediction_to_every_form(config: Config, collected: Path, tmp_path: Path) -> None:
    cell = Cell("gpt-a", "zeroshot", "nq", "bm25", 0)
    predictions, references = tmp_path / "predictions.jsonl", tmp_path / "references.parquet"
    write_jsonl(predictions, [prediction("q", "Tamo")])
    write_references(references, [Example("q", "Who?", ("Tamo",))])
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
    make_tables(collected, tmp_path / "tables")
    for suffix in ("md", "tex", "html"):
        assert f"{KEYS}; {TIED}" in (tmp_path / f"tables/comparison.{suffix}").read_text(encoding="utf-8")
    assert f"{KEYS}; {TIED}" in format_table(collected)
    assert KEYS not in (tmp_path / "tables/comparison.csv").read_text(encoding="utf-8")


def test_collected_results_of_older_runs_are_read(collected: Path) -> None:
    older = read_json(collected)
    for record in older["results"]:
        del record["departures"]
    expected = load_results(collected)
    write_json(collected, older)
    assert load_results(collected) == expected


def test_costs_by_model_and_method(collected: Path, tmp_path: Path) -> None:
    results = load_results(collected)
    table = cost_table(results)
    rows = {tuple(row[:3]): row[3:] for row in table.rows}
    assert rows["GPT", "a (1.00M)", "lora"] == [5000, 0.5, 3.0, 3000.0, 1.0, 0.02, 1.5]
    assert rows["GPT", "a (1.00M)", "zeroshot"] == [None, None, None, None, 0.5, None, 1.5]
    write_cell_costs(results, tmp_path / "cells.csv")
    with open(tmp_path / "cells.csv", newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == len(results)
    assert {line["train_seconds"] for line in lines} == {"", "3.0"}


def test_points_of_the_figure_are_the_scores(collected: Path) -> None:
    frame = points(load_results(collected)).set_index(["panel", "model", "method"])
    assert frame.loc[("nq", "gpt-a", "lora"), ["score", "low", "high", "parameters"]].tolist() == [30, 27, 33, 1e6]
    assert ("nq", "retro-b", "lora") not in frame.index
    assert ("Average", "retro-b", "lora") not in frame.index
    average = frame.loc[("Average", "gpt-a", "lora")]
    assert average["score"] == 31
    assert average["low"] is None or average["low"] != average["low"]


def test_scaling_figure_in_all_forms(collected: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / f"figures/scaling.{suffix}" for suffix in ("svg", "pdf", "png")]
    plot_scaling(collected, outputs)
    svg = outputs[0].read_text(encoding="utf-8")
    for word in ("zeroshot", "lora", "GPT", "RETRO", "nq", "qmsum", "Average", "log scale", "1.05M"):
        assert word in svg
    assert outputs[1].read_bytes().startswith(b"%PDF")
    assert outputs[2].read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="svg"):
        save(scaling_chart(load_results(collected)), tmp_path / "scaling.gif")


def specification(results: list[Result]) -> str:
    return json.dumps(scaling_chart(results).to_dict())


def test_a_single_size_is_drawn_by_method(collected: Path) -> None:
    results = [result for result in load_results(collected) if result.size == "a"]
    assert "Score by method" in specification(results)
    assert "Score by number of parameters" in specification(load_results(collected))


def test_a_model_without_a_parameter_count_is_named(collected: Path) -> None:
    results = [
        replace(r, num_parameters=None if r.model == "gpt-a" else r.num_parameters) for r in load_results(collected)
    ]
    assert "not drawn, as their parameters were not counted: gpt-a" in specification(results)
    assert "not drawn" not in specification(load_results(collected))


def test_a_study_without_scores_says_so(collected: Path, tmp_path: Path) -> None:
    results = [replace(result, status="missing", metrics={}) for result in load_results(collected)]
    save(scaling_chart(results), tmp_path / "empty.svg")
    assert "No cell of this study has a score" in (tmp_path / "empty.svg").read_text(encoding="utf-8")
    table = comparison_table(results)
    assert all(value is None for row in table.rows for value in row[3:])
    assert table.best == set()
