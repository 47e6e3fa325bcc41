"""The whole workflow at its smallest: killed once, finished, and rerun in parts."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest
import yaml

from retrotune.study.paths import REPORT_STAGES, TABLE_FORMS

pytestmark = pytest.mark.slow

CELLS = "results/smallest/cells"
LORA = f"{CELLS}/retro-tiny/lora/nq/minilm2/seed0"
REPORT = {stage: 1 for stage in REPORT_STAGES if stage != "report_retrieval"}


@pytest.fixture(scope="module")
def finished(smallest):
    """The study, interrupted by a kill of everything once base models exist, then run to its end."""
    process = subprocess.Popen(
        smallest.command(),
        cwd=smallest.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    started = time.monotonic()
    while not list(smallest.folder.glob(f"{CELLS}/*/*/*/*/*/train_log.jsonl")):
        assert process.poll() is None, process.stdout.read().decode()
        assert time.monotonic() - started < 600, "no cell was trained in ten minutes"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (smallest.folder / "results/smallest/tables/comparison.md").exists()
    done = smallest.run()
    assert done.returncode == 0, done.stdout + done.stderr
    return smallest


def test_every_cell_has_a_result(finished):
    metrics = list(finished.folder.glob(f"{CELLS}/*/*/*/*/*/metrics.json"))
    assert len(metrics) == 2 * 2 + 3 + 1 + 2
    for path in metrics:
        result = json.loads(path.read_text())
        assert result["status"] == "done"
        primary = [entry for entry in result["metrics"].values() if entry["primary"]]
        assert len(primary) == 1
        assert 0 <= primary[0]["value"] <= 100
        assert primary[0]["n"] == 6
        predictions, scores = (
            [json.loads(line) for line in (path.parent / name).read_text().splitlines()]
            for name in ("predictions.jsonl", "scores.jsonl")
        )
        assert len({record["question_id"] for record in predictions}) == 6
        assert [record["question_id"] for record in scores] == [record["question_id"] for record in predictions]
        assert len(result["model"]["fingerprint"]) == 16
        assert "predict_cell" in yaml.safe_load((path.parent / "config.yaml").read_text())
        assert (path.parent / "adapter").exists() == ("zeroshot" not in str(path))


def test_tables_and_figures(finished):
    folder = finished.folder / "results/smallest"
    for name in (
        "comparison",
        "comparison_long",
        "parameters",
        "cost",
        "cost_totals",
        "retrieval_quality",
        "published",
    ):
        for suffix in TABLE_FORMS:
            assert (folder / "tables" / f"{name}.{suffix}").stat().st_size > 100
    for suffix in ("csv", "md", "tex", "html"):
        assert "minilm2" in (folder / "tables" / f"retrieval_quality.{suffix}").read_text()
    assert "Intervals: 95 %, over documents (qmsum) and questions (nq)" in (folder / "tables/comparison.md").read_text()
    for suffix in ("svg", "pdf", "png"):
        for name in ("scaling", "cost", "gains", "learning", "retrieval_quality"):
            assert (folder / "figures" / f"{name}.{suffix}").stat().st_size > 1000


def test_retrieval_is_measured_where_answers_are_short(finished):
    files = sorted((finished.folder / "resources/smallest/neighbors").glob("*/*/quality.json"))
    assert [path.parts[-3:-1] for path in files] == [("minilm2", "nq")]
    metrics = json.loads(files[0].read_text())["metrics"]
    assert list(metrics) == [f"answer_recall@{k}" for k in (1, 5, 20, 100)]
    values = [entry["value"] for entry in metrics.values()]
    assert values == sorted(values)
    assert values[-1] > 50


def test_logs_hold_what_a_person_reads(finished):
    """The configuration in one line, how training goes, what was cut, the end; nothing of other libraries."""
    logs = {path: path.read_text() for path in finished.folder.glob("logs/smallest/**/*.log")}
    for path, text in logs.items():
        for line in text.splitlines():
            assert re.match(r"\d\d:\d\d:\d\d INFO ", line), f"{path}: {line}"
        assert text.splitlines()[-1].split(" INFO ")[1].startswith("finished after")
    cell, training = (
        r"configuration: .*method=\w+.* seed=0 ",
        r"configuration: .*batch_size=4 .*learning_rate=.* threads=",
    )
    promised = {
        "finetune_cell": [
            cell,
            training,
            r"step 1 of 2: loss [\d.]+, \d+ tokens/s, .* left",
            r"trained 2 steps",
            "prompts of",
        ],
        "predict_cell": [cell, "device=cpu dtype=float32 threads=", "prompts of", "answered 6 questions"],
        "score_cell": [cell, "over 6 questions"],
        "pretrain_model": [training, "step 1 of 3: loss", "trained 3 steps"],
        "retrofit_model": [training, "step 1 of 3: loss", "trained 3 steps"],
    }
    for rule, patterns in promised.items():
        texts = [text for path, text in logs.items() if rule in path.parts]
        assert texts, rule
        for text in texts:
            for pattern in patterns:
                assert re.search(pattern, text), f"{rule}: {pattern} in {text}"


def test_nothing_is_left_to_do(finished):
    assert finished.plan() == {}


def test_a_copy_without_its_times(finished, tmp_path):
    """Files as `cp -r`, git or a download leave them: newer than what was made of them. `--touch` mends that."""
    # without Snakemake's notes, which hold checksums of small files
    shutil.copytree(finished.folder, tmp_path / "copy", ignore=shutil.ignore_patterns(".snakemake"))
    copy = type(finished)(finished.repository, tmp_path / "copy", *finished.configfiles)
    assert copy.plan() == {}, "a copy with its times is as the original"
    for path in copy.folder.glob("resources/*/passages/**/*.parquet"):
        path.touch()
    assert copy.plan()["embed_passages"] == 3
    cell = LORA.removeprefix(f"{CELLS}/")
    for name in ("Snakefile", "workflow", "src", "envs", "profiles"):
        (copy.folder / name).symlink_to(finished.repository / name)
    assert "nothing has changed: snakemake --cores 1 --configfile" in copy.retrotune("explain", cell)
    assert copy.run("--touch").returncode == 0
    assert copy.plan() == {}


def test_a_deleted_cell_is_made_again_and_nothing_else(finished):
    saved = (finished.folder / LORA / "predictions.jsonl").read_bytes()
    shutil.rmtree(finished.folder / LORA)
    assert finished.plan() == {"finetune_cell": 1, "predict_cell": 1, "score_cell": 1, **REPORT}
    done = finished.run(f"{LORA}/metrics.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (finished.folder / LORA / "predictions.jsonl").read_bytes() == saved, "the same cell, the same predictions"


def test_what_a_stopped_collection_leaves_is_collected_again(finished):
    """Snakemake deletes the outputs of a job that is stopped; tables made of them before are still there."""
    finished.run()
    collected = finished.folder / "results/smallest/tables/results.json"
    saved = collected.read_bytes()
    collected.unlink()
    assert finished.plan() == REPORT
    done = finished.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert collected.read_bytes() == saved


def test_predicting_again_needs_the_weights(finished):
    finished.run()
    weights = finished.folder / LORA / "adapter" / "adapter_model.safetensors"
    saved = weights.read_bytes()
    shutil.rmtree(weights.parent)
    (finished.folder / LORA / "predictions.jsonl").unlink()
    assert finished.plan(f"{LORA}/predictions.jsonl") == {"finetune_cell": 1, "predict_cell": 1}
    done = finished.run(f"{LORA}/predictions.jsonl")
    assert done.returncode == 0, done.stdout + done.stderr
    assert weights.read_bytes() == saved


def test_another_study_shares_what_both_need(finished):
    jobs = finished.plan("--config", "study=other", "resources_dir=resources/smallest")
    assert set(jobs) == {
        "finetune_cell",
        "predict_cell",
        "score_cell",
        *REPORT_STAGES,
    }


def test_the_snakemake_report(finished):
    finished.run()
    done = finished.run("--report", "report.html")
    assert done.returncode == 0, done.stdout + done.stderr
    page = (finished.folder / "report.html").read_text()
    for part in (
        "comparison.html",
        "claims.html",
        "cost.html",
        "scaling.svg",
        "diagnosis.html",
        "cost.svg",
        "gains.svg",
        "learning.svg",
        "quadrants.svg",
        "recall.svg",
        "retrieval_quality.html",
        "retrieval_quality.svg",
    ):
        assert part in page, part


def test_a_changed_value_reruns_exactly_what_depends_on_it(finished):
    finished.run()
    cells = {"finetune_cell": 1, "predict_cell": 1, "score_cell": 1}
    assert finished.plan("--config", 'methods={"lora-r2": {"kind": "lora", "rank": 3}}') == {**cells, **REPORT}
    measured = {"measure_retrieval": 1, "report_retrieval": 1, "write_report": 1}
    assert finished.plan("--config", 'evaluation={metrics: {nq: ["contains"]}}') == {"score_cell": 7, **REPORT}
    assert finished.plan("--config", "evaluation={retrieval_depth: 20}") == measured
    assert finished.plan("--config", "select={dataset: qmsum}") == REPORT
    assert finished.plan("--config", "claims=[]") == {"write_report": 1}
    tested = {"make_tables": 1, "test_claims": 1, "write_report": 1}
    assert finished.plan("--config", "evaluation={resamples: 10}") == tested
    again = {"predict_cell": 10, "score_cell": 10, **REPORT}
    assert finished.plan("--config", "evaluation={batch_size: 3}") == again
    assert finished.plan("--config", 'datasets={"nq": {"prompt": "base"}}') == {}, "what it was, written out"
    fewer = {"prepare_test": 1, "cache_neighbors": 1, **measured, "predict_cell": 7, "score_cell": 7, **REPORT}
    assert finished.plan("--config", 'datasets={"nq": {"max_test": 5}}') == fewer, "nothing is trained again"


def test_retrofitted_models_come_from_the_same_gpt_and_the_same_tokens(finished):
    models = finished.folder / "resources/smallest/models"
    plain, retrieving = (json.loads((models / f"{name}-fitted/manifest.json").read_text()) for name in ("gpt", "retro"))
    assert plain["source"] == retrieving["source"]
    assert (plain["steps"], plain["tokens"]) == (retrieving["steps"], retrieving["tokens"])
    assert plain["num_parameters"] < retrieving["num_parameters"]
    table = (finished.folder / "results/smallest/tables/comparison.md").read_text()
    for name in ("gpt", "retro"):
        assert f"{name}-fitted is gpt-tiny trained further for 3 steps, all weights" in table


def test_what_a_retrofit_depends_on(finished):
    finished.run()
    cells = {
        "predict_cell": 2,
        "score_cell": 2,
        **REPORT,
    }
    longer = 'retrofittings={"fitting": {"steps": 4}}'
    assert finished.plan("--config", longer) == {"retrofit_model": 2, **cells}
    other = {"family": "retro", "size": "small", "retrofit_from": "gpt-small", "retrofitting": "fitting"}
    jobs = finished.plan("resources/smallest/models/other/manifest.json", "--config", f'models={{"other": {other}}}')
    assert jobs == {"pretrain_model": 1, "cache_retrofitting_neighbors": 1, "retrofit_model": 1}


def test_a_cell_from_nothing(finished, tmp_path):
    """One cell's `metrics.json` as the target plans its whole chain in an empty folder, and no other cell."""
    elsewhere = type(finished)(finished.repository, tmp_path, *finished.configfiles)
    jobs = elsewhere.plan(f"{CELLS}/retro-tiny/lora/nq/minilm2/seed0/metrics.json")
    assert jobs["pretrain_model"] == jobs["finetune_cell"] == jobs["predict_cell"] == jobs["score_cell"] == 1
    assert jobs["write_world"] == jobs["prepare_train"] == jobs["prepare_test"] == 1
    assert jobs["cache_neighbors"] == 2
