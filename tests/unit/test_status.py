"""`retrotune status` and `explain`, over hand-made study folders."""

import base64
import contextlib
import io
import json
import os
import re
import socket
import time
from pathlib import Path

import pytest
import yaml
from record_cases import predicting, training
from test_cli import CONFIG, PATHS, finish
from test_config import SMALL

from retrotune import cli
from retrotune.errors import ConfigError
from retrotune.report.gathering.collect import read_cells
from retrotune.report.standing import standings
from retrotune.report.standing.explain import differences, digest, explain_cell, find_cell, only_times, read_reasons
from retrotune.report.standing.standings import Work, read_standings, read_work, shared_failures
from retrotune.report.standing.status import estimate, study_status
from retrotune.runtime import heads
from retrotune.runtime.files import write_json, write_text
from retrotune.runtime.slurm import queue
from retrotune.runtime.slurm.queue import read_jobs
from retrotune.study.cells import expand_grid
from retrotune.study.config import load_config
from retrotune.study.paths import CELL_STAGES
from retrotune.study.resolve import cell_stages

ZEROSHOT_NQ, ZEROSHOT_QASPER, LORA_NQ, LORA_QASPER = expand_grid(CONFIG)
AT_WORK = f"10:00:00 INFO started on {socket.gethostname()}, process {os.getpid()}\n"
FINISHED = "10:00:01 INFO finished after 0.4 s\n"


@pytest.fixture(autouse=True)
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(queue.shutil, "which", lambda program: None)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(SMALL))
    return tmp_path


def standing(cell, work=None):
    results = read_cells(CONFIG)
    places = {result.name: place for place, result in enumerate(results)}
    return read_standings(PATHS, results, work or read_work(PATHS))[places[cell.name]]


@contextlib.contextmanager
def at_work(*planned, age=60.0):
    """A head at work on the study that had to do the stages with these logs."""
    lock = heads.claim_study(PATHS.study, heads.Head.here("small", planned), print)
    then = time.time() - age
    os.utime(lock.path, (then, then))
    yield
    lock.release()


@pytest.fixture
def head():
    with at_work():
        yield


def log_path(cell, stage):
    return PATHS.log(stage, **vars(cell))


def log(cell, stage, text, age=0.0):
    path = Path(PATHS.log(stage, **vars(cell)))
    write_text(path, text)
    then = time.time() - age
    os.utime(path, (then, then))
    return str(path)


def mark(output, job=None, age=0.0):
    """Mark an output as Snakemake does while a job makes it."""
    name = base64.urlsafe_b64encode(output.encode()).decode()
    parts = [name[start : start + 254] for start in range(0, len(name), 254)]
    path = Path(".snakemake/incomplete", *("@" + part for part in parts[:-1]), parts[-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"external_jobid": job}))
    then = time.time() - age
    os.utime(path, (then, then))


def test_nothing_there_is_missing():
    assert standing(LORA_NQ).state == "missing"
    assert standing(LORA_NQ).stage == "finetune_cell"
    assert standing(ZEROSHOT_NQ).stage == "predict_cell", "zero-shot is not trained"


def test_a_result_is_done():
    finish(LORA_NQ)
    assert standing(LORA_NQ) == standings.Standing("done")


def test_a_result_that_appears_while_status_looks_is_done():
    results = read_cells(CONFIG)
    for file in ("train.json", "predict.json"):
        write_text(PATHS.cell(LORA_NQ, file), "{}")
    finish(LORA_NQ)
    places = {result.name: place for place, result in enumerate(results)}
    assert read_standings(PATHS, results, read_work(PATHS))[places[LORA_NQ.name]] == standings.Standing("done")


def test_a_damaged_result_has_failed():
    write_text(PATHS.cell(LORA_NQ, "metrics.json"), '{"cell": ')
    found = standing(LORA_NQ)
    assert (found.state, found.stage) == ("failed", "score_cell")
    assert "metrics.json" in found.note


@pytest.mark.parametrize(
    ("text", "state", "note"),
    [
        ("10:00:00 INFO step 1\nended: error: no questions; raise max_train\n", "failed", "error: no questions"),
        ("ended: failed: RuntimeError: out of memory\n", "failed", "failed: RuntimeError"),
        ("10:00:00 INFO step 1\n", "failed", "killed without a word"),
        ("", "failed", "killed without a word"),
        ("ended: stopped by SIGTERM: saved at step 4; run again to go on\n", "missing", "stopped by SIGTERM"),
        ("AT WORK\n", "running", "process"),
        ("AT WORK\n10:00:01 INFO finished\n", "missing", ""),
    ],
)
def test_the_last_line_of_a_log_says_how_a_stage_ended(text, state, note):
    log(LORA_NQ, "finetune_cell", text.replace("AT WORK\n", AT_WORK))
    found = standing(LORA_NQ)
    assert found.state == state
    assert found.note.startswith(note)
    assert bool(note) == bool(found.note)


def test_only_the_log_of_the_first_stage_without_result_counts():
    log(LORA_NQ, "finetune_cell", FINISHED)
    write_json(PATHS.cell(LORA_NQ, "train.json"), {"seconds": 3})
    expected = log(LORA_NQ, "predict_cell", "ended: error: disk full\n")
    found = standing(LORA_NQ)
    assert (found.state, found.stage, found.log) == ("failed", "predict_cell", expected)


def test_a_started_job_runs_and_a_submitted_one_waits(head):
    mark(PATHS.cell(LORA_NQ, "train.json"), age=50)
    assert standing(LORA_NQ).state == "queued", "no log yet"
    log(LORA_NQ, "finetune_cell", "ended: error: of the attempt before\n", age=100)
    assert standing(LORA_NQ).state == "queued", "the log is of an earlier attempt"
    log(LORA_NQ, "finetune_cell", AT_WORK, age=10)
    found = standing(LORA_NQ)
    assert found.state == "running"
    assert found.began == pytest.approx(time.time() - 50, abs=5)
    log(LORA_NQ, "finetune_cell", "ended: error: broken\n")
    assert standing(LORA_NQ).state == "failed", "its head has not noticed yet"


def test_a_cell_that_runs_again_is_not_done(head):
    finish(LORA_NQ)
    mark(PATHS.cell(LORA_NQ, "predict.json"), age=5)
    log(LORA_NQ, "predict_cell", AT_WORK)
    assert (standing(LORA_NQ).state, standing(LORA_NQ).stage) == ("running", "predict_cell")


def test_long_names_and_foreign_files_among_the_markers():
    output = f"results/{'long' * 90}/train.json"
    mark(output, job="17")
    Path(".snakemake/incomplete/notes.txt").write_text("?")
    Path(".snakemake/incomplete/bm90aGluZw==").write_text("half a mark{")
    work = read_work(PATHS)
    assert list(work.markers) == [output]
    assert work.markers[output].job == "17"


def test_what_a_head_has_planned_and_not_begun_is_queued():
    """Whatever an earlier attempt left: nothing, a failure, or a result."""
    log(LORA_NQ, "finetune_cell", "ended: error: of the attempt before\n", age=100)
    finish(ZEROSHOT_NQ)
    log(ZEROSHOT_NQ, "score_cell", AT_WORK + FINISHED, age=100)
    log(ZEROSHOT_QASPER, "predict_cell", "ended: error: not to be done again\n", age=100)
    stages = {LORA_NQ: "finetune_cell", LORA_QASPER: "finetune_cell", ZEROSHOT_NQ: "score_cell"}
    with at_work(*(log_path(cell, stage) for cell, stage in stages.items())):
        for cell, stage in stages.items():
            assert standing(cell) == standings.Standing("queued", stage)
        assert standing(ZEROSHOT_QASPER).state == "failed"
    assert [standing(cell).state for cell in stages] == ["failed", "missing", "done"]


def test_what_a_head_has_begun_is_as_its_log_says():
    """Also where a result of another time is still there, which a later stage would have replaced."""
    finish(LORA_NQ)
    with at_work(*(log_path(LORA_NQ, stage) for stage in CELL_STAGES)):
        log(LORA_NQ, "finetune_cell", "ended: error: broken\n")
        assert (standing(LORA_NQ).state, standing(LORA_NQ).note) == ("failed", "error: broken")
        log(LORA_NQ, "finetune_cell", FINISHED)
        assert standing(LORA_NQ) == standings.Standing("queued", "predict_cell")
        log(LORA_NQ, "predict_cell", FINISHED)
        log(LORA_NQ, "score_cell", FINISHED)
        assert standing(LORA_NQ).state == "done"


@pytest.mark.parametrize(
    ("text", "state"), [("ended: stopped by SIGINT: saved at step 4\n", "missing"), ("ended: error: x\n", "failed")]
)
def test_a_marker_left_by_a_head_that_is_gone_is_no_job_at_work(text, state):
    mark(PATHS.cell(LORA_NQ, "train.json"), age=200)
    log(LORA_NQ, "finetune_cell", text, age=100)
    assert standing(LORA_NQ).state == state
    with at_work():
        assert standing(LORA_NQ).state == state, "the marker is older than the head"
    with at_work(age=300):
        assert standing(LORA_NQ).state == state, "stopped or failed, and its head has not noticed"


def test_a_marker_without_a_log_is_a_job_of_the_head_that_has_set_it():
    mark(PATHS.cell(LORA_NQ, "train.json"), age=200)
    assert standing(LORA_NQ).state == "missing"
    with at_work(age=100):
        assert standing(LORA_NQ).state == "missing"
    with at_work(age=300):
        assert standing(LORA_NQ).state == "queued"


def test_status_says_who_is_at_work():
    assert "no snakemake is at work" in study_status(CONFIG)
    with at_work():
        said = study_status(CONFIG)
    assert f"snakemake at work: process {os.getpid()} on {socket.gethostname()} (study small, since 20" in said


def test_slurm_says_more_than_files():
    squeue = (
        "17|17|PENDING|(null)\n18_3|18|RUNNING|rule_finetune_cell_wildcards_g_lora_qasper_bm5_0\nslurm_load: x\n||\n"
    )
    jobs = read_jobs(squeue)
    assert jobs["17"] == "PENDING"
    assert jobs["18_3"] == jobs["rule_finetune_cell_wildcards_g_lora_qasper_bm5_0"] == "RUNNING"
    mark(PATHS.cell(LORA_NQ, "train.json"), job="17", age=50)
    log(LORA_NQ, "finetune_cell", "10:00:00 INFO before the job was put back\n")
    work = Work(None, read_work(PATHS).markers, jobs)
    assert (standing(LORA_NQ, work).state, standing(LORA_NQ, work).note) == ("queued", "Slurm: PENDING")
    assert standing(LORA_QASPER, work).state == "running", "also behind the back of a head that is gone"


def test_a_job_that_has_ended_in_slurm_does_not_run(head):
    """Its head looks at Slurm's queue now and then only, and keeps the marker until then."""
    finish(LORA_NQ)
    mark(PATHS.cell(LORA_NQ, "metrics.json"), job="17", age=50)
    log(LORA_NQ, "score_cell", AT_WORK + FINISHED)
    found = read_work(PATHS)
    assert standing(LORA_NQ, Work(found.head, found.markers, {})).state == "done"
    log(LORA_NQ, "score_cell", "ended: stopped by SIGTERM: at its time limit\n")
    assert standing(LORA_NQ, Work(found.head, found.markers, {})).state == "queued", "it is tried again"


def test_failed_jobs_that_cells_share():
    failed = Path(PATHS.log("fetch_model", model="g"))
    write_text(failed, "ended: error: no text\n")
    write_text(PATHS.log("prepare_test", dataset="nq"), FINISHED)
    write_text(PATHS.log("prepare_test", dataset="qasper"), "ended: failed: OSError\n")
    write_text(PATHS.log("prepare_test", dataset="left-out"), "ended: error: of a dataset that the study had\n")
    write_text(PATHS.log("finetune_cell", **vars(LORA_NQ)), "ended: error: of a cell\n")
    found = {failure.log: failure.note for failure in shared_failures(CONFIG, Work())}
    assert found == {
        str(failed): "error: no text", PATHS.log("prepare_test", dataset="qasper"): "failed: OSError",
    }  # fmt: skip
    assert "error: no text" in study_status(CONFIG)
    with at_work(str(failed), age=-60):
        assert "error: no text" not in study_status(CONFIG), "it waits to be done again"


def test_cells_that_rest_on_a_failed_job_do_not_wait_for_it():
    failed = PATHS.log("prepare_test", dataset="qasper")
    with at_work(failed, *(log_path(cell, "predict_cell") for cell in (ZEROSHOT_NQ, ZEROSHOT_QASPER))):
        assert "2 queued" in study_status(CONFIG)
        write_text(failed, "ended: failed: OSError\n")
        assert "1 queued" in study_status(CONFIG), "the one of the other dataset"


def measured(cell, train, predict):
    finish(cell)
    path = PATHS.cell(cell, "metrics.json")
    seconds = {"train": train and training(seconds=train), "predict": predicting(seconds=predict)}
    write_json(path, json.loads(Path(path).read_text()) | seconds)


def test_the_time_left_rests_on_the_nearest_finished_cells():
    measured(LORA_NQ, 100.0, 20.0)
    results = read_cells(CONFIG)
    standings = read_standings(PATHS, results, Work())
    left = estimate(PATHS, results, standings, time.time())
    # lora/qasper as lora/nq, zeroshot only predicts
    assert left.seconds == pytest.approx(120 + 2 * 20)
    assert left.finished == 1
    assert left.rests_on == {"the same model and method": 1, "the same model with another method": 2}
    assert left.unknown == 0


def test_what_is_trained_needs_no_training_and_what_runs_is_partly_done(head):
    measured(LORA_NQ, 100.0, 20.0)
    write_json(PATHS.cell(LORA_QASPER, "train.json"), {"seconds": 60.0})
    mark(PATHS.cell(LORA_QASPER, "predict.json"), age=5)
    log(LORA_QASPER, "predict_cell", AT_WORK)
    config = load_config({**SMALL, "select": {"method": "lora"}})
    results = read_cells(config)
    left = estimate(PATHS, results, read_standings(PATHS, results, read_work(PATHS)), time.time())
    assert left.seconds == pytest.approx(15, abs=2)


def test_without_finished_cells_nothing_is_promised():
    assert "time left: unknown, no finished cell to go by for 4 cells" in study_status(CONFIG)


def test_the_command_shows_matrix_time_and_logs(capsys):
    measured(ZEROSHOT_NQ, None, 30.0)
    failed = log(LORA_NQ, "finetune_cell", "ended: error: no questions\n")
    mark(PATHS.cell(LORA_QASPER, "train.json"), age=4000)
    log(LORA_QASPER, "finetune_cell", AT_WORK, age=3600)
    with at_work(age=5000):
        assert cli.main(["status", "--configfile", "study.yaml"]) == 0
    printed = capsys.readouterr().out
    assert "small: 4 cells, 1 done, 1 missing, 0 queued, 1 running, 1 failed" in printed
    rows = {tuple(line.split()[:3]): line.split()[3:] for line in printed.splitlines() if line.startswith("GPT")}
    assert rows == {("GPT", "xs", "zeroshot"): ["✓", "·"], ("GPT", "xs", "lora"): ["✗", "▶"]}
    assert "(✓ done, · missing, … queued, ▶ running, ✗ failed)" in printed
    assert f"g/lora/nq/bm5/seed0: finetune_cell: error: no questions\n    log: {failed}" in printed
    assert "g/lora/qasper/bm5/seed0: finetune_cell, last word 60 min ago" in printed
    assert "time left: about 30 s with 1 at once as now (30 s of work)" in printed
    assert "2 cells more have no finished cell of their model to go by" in printed


def test_seeds_and_retrievals_of_an_entry_are_counted(capsys):
    config = load_config({**SMALL, "grid": {"retrievals": ["bm5"], "seeds": [0, 1, 2]}})
    finish(LORA_NQ)
    printed = study_status(config)
    assert re.search(r"lora +· 1/3 +· 0/3", printed)
    assert "n/m: n of m retrievals, replicates and seeds are done" in printed


def test_letters_where_the_terminal_knows_no_others(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", terminal)
    assert cli.main(["status", "--configfile", "study.yaml"]) == 0
    terminal.flush()
    assert b"(d done, - missing, q queued, r running, F failed)" in terminal.buffer.getvalue()


def test_three_thousand_cells_take_less_than_two_seconds():
    config = load_config({**SMALL, "grid": {"retrievals": ["bm5"], "seeds": list(range(750))}})
    for number, cell in enumerate(expand_grid(config)):
        if number % 3 == 0:
            log(cell, "finetune_cell", "10:00:00 INFO step\nerror: x\n")
        elif number % 3 == 1:
            finish(cell)
    begun = time.process_time()
    printed = study_status(config)
    assert time.process_time() - begun < 2
    assert "3000 cells, 1000 done" in printed


# explain ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "g/lora/nq/bm5/seed0",
        "results/small/cells/g/lora/nq/bm5/seed0",
        "./results/small/cells/g/lora/nq/bm5/seed0/metrics.json",
    ],
)
def test_a_cell_is_found_by_name_and_path(name):
    assert find_cell(CONFIG, name) == LORA_NQ


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("g/lorra/nq/bm5/seed0", r"method 'lorra': did you mean 'lora'\?"),
        ("g/lora/nq/bm5/seed7", r"seed 'seed7': did you mean 'seed0'\?"),
        ("g/lora/nq", r"the nearest are g/lora/nq/bm5/seed0"),
        ("?", "write MODEL/METHOD/DATASET/RETRIEVAL/seedN"),
    ],
)
def test_a_cell_that_is_not_there_has_neighbors(name, message):
    with pytest.raises(ConfigError, match=message):
        find_cell(CONFIG, name)


def recorded(**changes):
    """What a cell's stages used, as its result has it; `changes` are values of fine-tuning, None for one without."""
    used = {stage: params.recorded() for stage, params in cell_stages(CONFIG, LORA_NQ).items()}
    used["finetune_cell"] = {key: value for key, value in {**used["finetune_cell"], **changes}.items() if value}
    write_text(PATHS.cell(LORA_NQ, "config.yaml"), yaml.safe_dump({**used, "base_model": None}))


def test_a_changed_configuration_is_named():
    before = cell_stages(CONFIG, LORA_NQ)
    recorded()
    same = f"configuration: {digest(before)}, the one that its result was made with"
    assert same in explain_cell(CONFIG, LORA_NQ.name)
    changed = load_config({**SMALL, "methods": {"lora": {"kind": "lora", "rank": 3}}})
    printed = explain_cell(changed, LORA_NQ.name)
    assert "finetune_cell.method.rank: 32 -> 3" in printed
    assert digest(cell_stages(changed, LORA_NQ)) != digest(before)


def test_a_stage_that_was_changed_is_named_and_a_field_with_a_default_is_not():
    recorded(version=1)
    assert "finetune_cell.version: 1 -> " in explain_cell(CONFIG, LORA_NQ.name)
    recorded(base=None)
    assert "the one that its result was made with" in explain_cell(CONFIG, LORA_NQ.name)


@pytest.mark.parametrize("text", ["- a list", "{", "[]"])
def test_a_damaged_record_is_named(text):
    write_text(PATHS.cell(LORA_NQ, "config.yaml"), text)
    assert "config.yaml cannot be read" in explain_cell(CONFIG, LORA_NQ.name)


def test_differences_have_places():
    assert list(differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 0})) == [
        "a.c: 3 -> 2",
        "d: 0 -> null",
    ]


def test_reasons_are_read_from_a_dry_run():
    output = """
rule finetune_cell:
    input: a
    reason: Missing output files: b; Params have changed since last execution
localrule score_cell:
    reason: Input files updated by another job: c
localrule all:
    reason: Forced execution
"""
    assert read_reasons(output) == [
        ("finetune_cell", "Missing output files: b; Params have changed since last execution"),
        ("score_cell", "Input files updated by another job: c"),
    ]


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        (["Updated input files: a, b", "Input files updated by another job: c"], True),
        (["Updated input files: a", "Missing output files: d; Input files updated by another job: c"], False),
        (["Updated input files: a", "Params have changed since last execution"], False),
        ([], False),
    ],
)
def test_newer_files_as_the_only_reason(reasons, expected):
    assert only_times(reasons) == expected


def test_files_state_and_commands_of_a_cell(capsys):
    finish(LORA_NQ)
    assert cli.main(["explain", "g/lora/nq/bm5/seed0", "--configfile", "study.yaml", "--config", "max_length=9"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("g/lora/nq/bm5/seed0: gpt, size xs, done\n")
    for file in ("neighbors/bm5/nq/train.parquet", "datasets/nq/train.parquet", "datasets/nq/test.references.parquet"):
        assert re.search(rf"not there +resources/small/{file}", printed)
    assert "scores.jsonl" in printed
    assert re.search(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d  results/small/cells/g/lora/nq/bm5/seed0/metrics.json", printed)
    target = "results/small/cells/g/lora/nq/bm5/seed0/metrics.json"
    assert f"  snakemake --cores 1 --configfile study.yaml --config max_length=9 -- {target}" in printed
    assert "--forcerun finetune_cell predict_cell score_cell -- results/small" in printed
    assert "there is no Snakefile here" in printed


def test_an_unknown_cell_is_an_error_without_traceback(capsys):
    assert cli.main(["explain", "g/lorra/nq/bm5/seed0", "--configfile", "study.yaml"]) == 1
    assert "did you mean 'lora'?" in capsys.readouterr().err
