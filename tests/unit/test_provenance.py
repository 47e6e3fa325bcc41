"""Results that cannot stand beside each other are not compared; tables and `explain` say where numbers come from."""

import itertools
import logging
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from record_cases import COMMIT, MADE, SOFTWARE, metrics_record, predicting, question_scores, training, write_result
from test_config import SMALL

from retrotune import cli
from retrotune.data.datasets import SPECS
from retrotune.data.scores import parts_of
from retrotune.report.gathering.collect import Result, collect_metrics, load_results, read_cells
from retrotune.report.gathering.provenance import NAMED, provenance_notes
from retrotune.report.standing.origins import number_origins
from retrotune.report.standing.standings import Work, read_standings
from retrotune.runtime import software
from retrotune.runtime.files import sha256, write_text
from retrotune.study.cells import Cell, expand_grid
from retrotune.study.config import load_config
from retrotune.study.paths import Paths
from retrotune.study.resolve import resolve
from retrotune.study.stages import VERSIONS

CONFIG = load_config(SMALL)
PATHS = Paths.of(CONFIG)
CELLS = ZEROSHOT_NQ, ZEROSHOT_QASPER, LORA_NQ, LORA_QASPER = expand_grid(CONFIG)


@pytest.fixture(autouse=True)
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(SMALL))
    return tmp_path


def finish(cell: Cell, /, **changes: Any) -> Path:
    """A result by the headline metric of the cell's dataset."""
    metric = SPECS[cell.dataset].metric
    record = metrics_record(cell, cell.method == "lora")
    record["metrics"] = {metric: record["metrics"]["f1"]}
    lines = [question_scores(f"q{place}", **dict.fromkeys(parts_of([metric]), 50.0)) for place in range(2)]
    return write_result(PATHS.cell(cell), {**record, **changes}, lines)


def rests_on(cell: Cell, **digests: str | None) -> dict[str, Any]:
    """`inputs` of a result with other digests of files."""
    return {**metrics_record(cell)["inputs"], **digests}


def statuses() -> dict[str, str]:
    return {result.name: result.status for result in read_cells(CONFIG)}


def result_of(cell: Cell) -> Result:
    return next(result for result in read_cells(CONFIG) if result.cell == cell)


# what cannot be compared -----------------------------------------------------------------------------------------
def test_results_of_one_code_and_data_are_compared() -> None:
    for cell in CELLS:
        finish(cell)
    results = read_cells(CONFIG)
    assert {result.status for result in results} == {"done"}
    assert provenance_notes(results) == []
    lora = result_of(LORA_NQ)
    assert lora.provenance["stages"] == {
        name: VERSIONS[name] for name in ("finetune_cell", "predict_cell", "score_cell")
    }
    assert lora.provenance["software"] == dict.fromkeys(lora.provenance["stages"], SOFTWARE)
    assert result_of(ZEROSHOT_NQ).provenance["stages"].keys() == {"predict_cell", "score_cell"}


@pytest.mark.parametrize("stage", ["finetune_cell", "predict_cell", "score_cell"])
def test_a_result_of_an_earlier_stage_is_outdated_and_of_a_later_one_damaged(stage: str) -> None:
    for cell in CELLS:
        finish(cell)
    record = metrics_record(LORA_NQ, trained=True)
    for change, status in ((-1, "outdated"), (1, "damaged")):
        stages = {**record["versions"]["stages"], stage: VERSIONS[stage] + change}
        finish(LORA_NQ, versions={**record["versions"], "stages": stages})
        assert statuses() == {**{cell.name: "done" for cell in CELLS}, LORA_NQ.name: status}
        result = result_of(LORA_NQ)
        assert (result.primary, result.metrics) == (None, {})
        (note,) = provenance_notes(read_cells(CONFIG))
        assert note.startswith(f"Not compared, 1 of 4 cells {status}: {LORA_NQ.name}: made by ")
        assert f"{stage} version {VERSIONS[stage] + change}" in note


FILES: dict[str, Callable[[Cell], str]] = {
    "references": lambda cell: PATHS.references(cell.dataset, "test"),
    "examples": lambda cell: PATHS.examples(cell.dataset, "test"),
    "neighbors": lambda cell: PATHS.neighbors(cell.retrieval, cell.dataset, "test"),
    "model": lambda cell: PATHS.model_manifest(cell.model),
}


@pytest.mark.parametrize("name", FILES)
def test_a_result_of_data_that_have_changed_is_outdated(name: str, caplog: pytest.LogCaptureFixture) -> None:
    file = FILES[name](ZEROSHOT_NQ)
    write_text(file, "before")
    digest = sha256(file)
    for cell in (ZEROSHOT_NQ, LORA_NQ):
        same = training()["inputs"] | ({"model": digest} if name == "model" else {})
        finish(cell, inputs=rests_on(cell, **{name: digest}), train=training(inputs=same) if cell == LORA_NQ else None)
    assert set(statuses().values()) == {"done", "missing"}
    later = Path(PATHS.cell(LORA_NQ, "metrics.json")).stat().st_mtime + 5
    os.utime(file, (later, later))
    assert set(statuses().values()) == {"done", "missing"}, "newer, with the same contents"
    write_text(file, "after")
    os.utime(file, (later + 5, later + 5))
    with caplog.at_level(logging.WARNING):
        found = statuses()
    assert [found[cell.name] for cell in (ZEROSHOT_NQ, LORA_NQ)] == ["outdated", "outdated"]
    assert f"than {file} holds by now; run snakemake, which makes it again" in caplog.text
    finish(ZEROSHOT_NQ, inputs=rests_on(ZEROSHOT_NQ, **{name: sha256(file)}))
    found = statuses()
    assert [found[cell.name] for cell in (ZEROSHOT_NQ, LORA_NQ)] == ["done", "outdated"], "one was made again"


@pytest.mark.parametrize("name", ["examples", "neighbors"])
def test_training_data_that_have_changed(name: str) -> None:
    file = PATHS.examples("nq", "train") if name == "examples" else PATHS.neighbors("bm5", "nq", "train")
    write_text(file, "before")
    finish(ZEROSHOT_NQ)
    finish(LORA_NQ, train=training(inputs={**training()["inputs"], name: sha256(file)}))
    later = Path(PATHS.cell(LORA_NQ, "metrics.json")).stat().st_mtime + 5
    write_text(file, "after")
    os.utime(file, (later, later))
    found = statuses()
    assert (found[ZEROSHOT_NQ.name], found[LORA_NQ.name]) == ("done", "outdated")
    assert f"other training {'questions' if name == 'examples' else 'neighbors'}" in (result_of(LORA_NQ).problem or "")


@pytest.mark.parametrize("name", ["references", "examples", "neighbors"])
def test_cells_of_different_data_are_not_compared_where_the_files_are_gone(name: str) -> None:
    """Nothing tells which is right, so that none has a score; cells of the other dataset keep theirs."""
    for cell in (ZEROSHOT_NQ, LORA_NQ, ZEROSHOT_QASPER, LORA_QASPER):
        finish(cell, inputs=rests_on(cell, **{name: 64 * "a"}))
    assert set(statuses().values()) == {"done"}
    finish(LORA_NQ, inputs=rests_on(LORA_NQ, **{name: 64 * "b"}))
    found = statuses()
    assert [found[cell.name] for cell in CELLS] == ["outdated", "done", "outdated", "done"]
    (note,) = provenance_notes(read_cells(CONFIG))
    assert note.startswith(f"Not compared, 2 of 4 cells outdated: {ZEROSHOT_NQ.name}, {LORA_NQ.name}: cells of nq")
    assert "aaaaaaaaaaaa in 1 cell, bbbbbbbbbbbb in 1 cell" in note
    assert result_of(LORA_NQ).metrics == {}


def test_other_training_questions_are_no_matter_of_cells_that_are_not_trained() -> None:
    config = load_config({**SMALL, "grid": {"retrievals": ["bm5"], "seeds": [0, 1]}, "select": {"dataset": "nq"}})
    inputs = training()["inputs"]
    for cell in expand_grid(config):
        train = training(inputs={**inputs, "examples": f"{cell.seed}" * 64}) if cell.method == "lora" else None
        finish(cell, train=train)
    found = {(result.method, result.status) for result in read_cells(config)}
    assert found == {("zeroshot", "done"), ("lora", "outdated")}


def test_what_is_not_compared_has_no_row_of_values_and_is_to_be_made() -> None:
    finish(ZEROSHOT_NQ)
    record = metrics_record(LORA_NQ, trained=True)
    finish(LORA_NQ, versions={**record["versions"], "stages": {**record["versions"]["stages"], "score_cell": 1}})
    outputs = [PATHS.report(f"tables/{name}") for name in ("metrics.csv", "results.json", "scores.parquet")]
    collect_metrics(resolve(CONFIG, "collect_metrics", {}), PATHS, *outputs)
    rows = Path(outputs[0]).read_text().splitlines()
    assert sum(",outdated,exact_match,,,,,,True" in row for row in rows) == 1
    results = load_results(outputs[1])
    assert [result.status for result in results] == ["done", "missing", "outdated", "missing"]
    standings = read_standings(PATHS, results, Work())
    assert [standing.state for standing in standings] == ["done", "missing", "missing", "missing"]
    assert "made by score_cell version 1" in standings[2].note


# notes -----------------------------------------------------------------------------------------------------------
def by(**changes: Any) -> dict[str, Any]:
    """What was made by another program."""
    return {**MADE, "software": {**SOFTWARE, **changes}}


DIRTY, OTHER = {"commit": COMMIT, "dirty": True}, {"commit": "beef" + 36 * "1", "dirty": False}


@pytest.mark.parametrize("stage", ["finetune_cell", "predict_cell", "score_cell"])
def test_a_tree_with_changes_is_named_whichever_stage_it_ran(stage: str) -> None:
    for cell in CELLS:
        finish(cell)
    versions = metrics_record(LORA_NQ, trained=True)["versions"]
    changes: dict[str, dict[str, Any]] = {
        "finetune_cell": {"train": training(made=by(git=DIRTY))},
        "predict_cell": {"predict": predicting(made=by(git=DIRTY))},
        "score_cell": {"versions": {**versions, "git": DIRTY}},
    }
    finish(LORA_NQ, **changes[stage])
    assert provenance_notes(read_cells(CONFIG)) == [
        f"Made by a tree with uncommitted changes, 1 of 4 cells ({stage}): {LORA_NQ.name}. No commit holds the code "
        "that made them."
    ]


def test_commits_and_packages_that_differ_are_counted() -> None:
    for cell in CELLS:
        finish(cell)
    finish(LORA_NQ, predict=predicting(made=by(git=OTHER, torch="2.12.1", peft="0.21")))
    commits, torch = provenance_notes(read_cells(CONFIG))
    assert commits.startswith("Stages were run by 2 commits (c0ffee0 in 4 cells, beef111 in 1 cell), all with the same")
    assert torch == "Cells were made with 2 versions of torch: 2.13.0+cpu in 4 cells, 2.12.1 in 1 cell."


def test_what_is_not_known_is_no_difference() -> None:
    """Results of earlier versions, those without git, and those that were collected before."""
    finish(ZEROSHOT_NQ, predict=predicting(made=None))
    finish(LORA_NQ, predict=predicting(made=by(git=None, torch=None)))
    finish(ZEROSHOT_QASPER)
    results = read_cells(CONFIG)
    assert [result.status for result in results] == ["done", "done", "done", "missing"]
    assert result_of(ZEROSHOT_NQ).provenance["software"] == {"predict_cell": None, "score_cell": SOFTWARE}
    assert provenance_notes(results) == []
    before = [Result(**{**vars(result), "provenance": {}}) for result in results]
    assert provenance_notes(before) == []


def test_many_cells_are_named_by_the_first() -> None:
    config = load_config({**SMALL, "grid": {"retrievals": ["bm5"], "seeds": list(range(9))}})
    for cell in expand_grid(config):
        finish(cell, predict=predicting(made=by(git=DIRTY)))
    (note,) = provenance_notes(read_cells(config))
    assert "36 of 36 cells (predict_cell)" in note
    assert note.count("seed") == NAMED
    assert f"and {36 - NAMED} more." in note


def test_the_commit_of_the_checkout_is_recorded(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        named = ["git", "-c", "user.name=A", "-c", "user.email=a@b", "-C", str(tmp_path), *arguments]
        return subprocess.run(named, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    code = tmp_path / "code.py"
    code.write_text("x = 1")
    assert software.git_state(code) is None, "a checkout that does not track the file"
    git("add", "code.py")
    git("commit", "-qm", "first")
    (tmp_path / "untracked").touch()
    assert software.git_state(code) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    code.write_text("x = 2")
    assert software.git_state(code) == {"commit": git("rev-parse", "HEAD"), "dirty": True}


# explain ---------------------------------------------------------------------------------------------------------
def test_explain_says_where_each_number_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    references = PATHS.references("nq", "test")
    write_text(references, "answers")
    kind = {"boolean": {**metrics_record(LORA_NQ)["metrics"]["f1"], "value": 25.0, "primary": False, "n": 1}}
    geometric = {**kind["boolean"], "ci_low": None, "ci_high": None, "clusters": 1, "n": 2}
    metrics = {"exact_match": metrics_record(LORA_NQ)["metrics"]["f1"], "rouge_geometric": geometric}
    made = by(git=DIRTY, torch="2.12.1")
    finish(
        LORA_NQ,
        metrics=metrics,
        by_type=kind,
        inputs=rests_on(LORA_NQ, references=sha256(references)),
        train=training(made=None),
        predict=predicting(made=made, device="NVIDIA H200"),
    )
    assert cli.main(["explain", LORA_NQ.name, "--configfile", "study.yaml"]) == 0
    printed = capsys.readouterr().out
    for line in (
        r"numbers, in .*/metrics.json, each a function of means over scores.jsonl:",
        r" +50.00  \[47.0, 53.0\] +n=2 in 2 clusters  metrics.exact_match, mean of scores.exact_match, the headline",
        r" +25.00  no interval +n=2 in 1 clusters  metrics.rouge_geometric, geometric mean of the means of "
        r"scores.rouge1, scores.rouge2, scores.rougeL",
        r" +25.00  \[47.0, 53.0\] +n=1 in 2 clusters  by_type.boolean, exact_match of the answers of this type",
        rf"  finetune_cell version {VERSIONS['finetune_cell']}, the present one: by what and when was not recorded",
        rf"  predict_cell version {VERSIONS['predict_cell']}, the present one: 2026-01-02T03:04:05\+00:00, "
        r"retrotune 0.1.0, commit c0ffee000000 with uncommitted changes, torch 2.12.1, transformers 5.23.0, "
        r"Python 3.11.7, Linux-x86_64, on NVIDIA H200",
        rf"  score_cell version {VERSIONS['score_cell']}, the present one: .*, commit c0ffee000000, torch 2.13.0.cpu.*",
        rf"  {sha256(references)[:12]}  references: {references}, the present one",
        r"  [0-9a-f]{12}  scores: .*/scores.jsonl, the present one",
        r"  [0-9a-f]{12}  predictions: .*/predictions.jsonl, which is not there",
        r"  [0-9a-f]{12}  training questions: .*/nq/train.parquet, which is not there",
    ):
        assert re.search(f"^{line}$", printed, re.MULTILINE), line
    write_text(references, "other answers")
    changed = "\n".join(number_origins(PATHS, LORA_NQ))
    assert f"{references}, which is another one by now ({sha256(references)[:12]})" in changed


def test_explain_of_a_cell_without_numbers() -> None:
    assert number_origins(PATHS, LORA_NQ) == []
    record = metrics_record(LORA_NQ, trained=True)
    finish(LORA_NQ, versions={**record["versions"], "stages": {"score_cell": 99}})
    lines = number_origins(PATHS, LORA_NQ)
    assert lines[:2] == ["", "numbers: none that can be used"]
    assert "made by a later retrotune: score_cell version 99" in lines[2]


def test_every_order_of_cells_finds_the_same_differences() -> None:
    digests = {ZEROSHOT_NQ: "a", LORA_NQ: "b", ZEROSHOT_QASPER: "c"}
    for order in itertools.permutations(digests):
        for cell in order:
            finish(cell, inputs=rests_on(cell, examples=digests[cell] * 64))
        found = statuses()
        assert [found[cell.name] for cell in digests] == ["outdated", "outdated", "done"]
