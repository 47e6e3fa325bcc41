"""A study whose lock, or whose turn to make shared files, another head has: as `snakemake` is typed."""

import json
import os
import signal
import subprocess
import time

import pytest
from study_runs import Workflow

from retrotune.runtime.heads import Head, Resources, claim_study

STUDY = """
study: towns
data_root: data
datasets:
  nq: {reader: nq, path: nq, max_new_tokens: 4}
retrievals:
  none: {top_k: 0}
models:
  own: {family: gpt, size: xs, path: model}
methods:
  zeroshot: {kind: zeroshot}
grid: {retrievals: [none]}
"""
QUESTIONS = "resources/towns/datasets/nq/test.parquet"
pytestmark = pytest.mark.slow


@pytest.fixture
def study(repository, tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "data" / "nq").mkdir(parents=True)
    for name in ("train", "dev"):
        line = json.dumps({"question": f"which town has a {name}", "answer": ["Hull"]})
        (tmp_path / "data" / "nq" / f"NQ-open.{name}.jsonl").write_text(line)
    return Workflow(repository, tmp_path, tmp_path / "study.yaml")


def test_a_second_head_is_refused_before_its_first_job_from_any_folder(study, tmp_path):
    claim_study(tmp_path / "results/towns", Head.here("towns"), print)
    assert study.plan(QUESTIONS) == {"prepare_test": 1}, "plans disturb nobody"
    elsewhere = Workflow(study.repository, tmp_path / "elsewhere", tmp_path / "study.yaml")
    values = [f"{key}={tmp_path / value}" for key, value in (("results_dir", "results"), ("data_root", "data"))]
    for head, arguments in ((study, ()), (elsewhere, ("--config", *values))):
        done = head.run(QUESTIONS, *arguments)
        assert done.returncode == 1
        said = done.stdout + done.stderr
        assert f"results/towns is being worked on by process {os.getpid()} on " in said
        assert "Wait until it ends" in said
        assert "Traceback" not in said
        assert not (head.folder / QUESTIONS).exists()


@pytest.fixture
def waiting(study, tmp_path):
    """A head that waits, what it says, and the other, which makes shared files."""
    other = Resources(tmp_path / "resources/towns", Head.here("other"), print)
    assert other.claim([f"{tmp_path}/resources/towns/new"], [])
    said = tmp_path / "said.txt"
    with open(said, "w") as log:
        head = subprocess.Popen(study.command(QUESTIONS), cwd=tmp_path, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 120
        while f"waiting for process {os.getpid()} on" not in said.read_text():
            assert head.poll() is None, said.read_text()
            assert time.monotonic() < end, said.read_text()
            time.sleep(0.1)
        assert not (tmp_path / QUESTIONS).exists()
        yield head, said, other
    finally:
        head.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_head_that_waits_can_be_stopped(waiting, number):
    head, said, _ = waiting
    head.send_signal(number)
    assert head.wait(60) == 1
    assert f"stopped by {number.name} before the first job" in said.read_text()


def test_a_head_waits_for_another_that_makes_shared_files_and_plans_again(waiting, tmp_path):
    head, said, other = waiting
    other.made()
    assert head.wait(120) == 0, said.read_text()
    assert said.read_text().count("Building DAG of jobs") == 2, "it has planned again"
    assert (tmp_path / QUESTIONS).exists()
