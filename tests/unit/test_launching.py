"""Stages as several processes: what reaches them, and how the stage ends when one of them does."""

import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from pydantic import validate_call
from test_config import SMALL

from retrotune.errors import ClusterError, Interrupted, TrainingError
from retrotune.runtime import interruption, launching
from retrotune.runtime.asked import check_gpus, unseen_gpus
from retrotune.runtime.launching import Launch, run_stage
from retrotune.runtime.log import logger
from retrotune.study.cells import Cell
from retrotune.study.config import ModelResources, SaveEvery, SizeEntry, load_config
from retrotune.study.requests import Requests
from retrotune.study.resolve import cell_stages
from retrotune.study.stages import FinetuneParams

SHAPE = SizeEntry(num_layers=1, hidden_size=8, num_heads=2, ffn_size=8)


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch):
    """Stages of the tests can be imported; signal handlers are as they were afterwards."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    before = {number: signal.getsignal(number) for number in interruption.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    interruption.forget()


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def run(folder, how, sharded=False):
    run_stage(
        "launching_cases:ending",
        Launch(processes=2, sharded=sharded),
        folder / "work",
        5,
        how=how,
        shape=SHAPE,
        layout=None,
    )


def test_each_process_gets_the_arguments_its_threads_and_its_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-b2,7")
    run(tmp_path, "finish", sharded=True)
    found = [(tmp_path / "work" / f"{rank}.txt").read_text() for rank in (0, 1)]
    assert found == [f"SizeEntry 2 None 2 True 2 {gpu}" for gpu in ("5", "GPU-b2")]
    assert not (tmp_path / "work-processes").exists()


def test_more_processes_than_gpus_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    with pytest.raises(
        TrainingError, match="2 processes on this node want a GPU each, and 1 can be seen here: ask for"
    ):
        run(tmp_path, "finish")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("error", r"^models.x: a word to the user$"),
        ("bug", r"^process 1 of 2 failed: KeyError: 'nobody thought of it' \(log: .*work-processes/1.log\)$"),
        ("late", r"^process 1 of 2 failed: SignaledError: and a signal \(log: .*work-processes/1.log\)$"),
        ("kill", r"^of 2 processes 1 ended without a word \(exit status 1\): killed by hand or by the system for want"),
    ],
)
def test_a_process_that_fails_ends_all_with_its_message(tmp_path, how, message):
    start = time.monotonic()
    with pytest.raises(TrainingError, match=message):
        run(tmp_path, how)
    assert time.monotonic() - start < launching.GRACE_SECONDS + 20


def test_a_signal_lets_the_processes_save(tmp_path):
    """Nothing but the stage's own process gets it here; Slurm sends it to all."""

    def send():
        while not all((tmp_path / "work" / f"{rank}.waits").exists() for rank in (0, 1)):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGUSR1)

    interruption.listen()
    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(Interrupted, match="stopped by SIGUSR1: all is saved; run again to go on"):
        run(tmp_path, "signal")
    sender.join()


def test_how_many_processes(monkeypatch):
    wanted = {"nodes": 2, "processes": 4, "one_per_device": 1, "sharded": 1}
    monkeypatch.setattr(launching, "nodes_of_own_job", lambda: 2)
    assert Launch.of(wanted) == Launch(2, 4, True)
    monkeypatch.setattr(launching, "nodes_of_own_job", lambda: 0)
    for gpus, processes in ((3, 3), (0, 1), (16, 8)):
        monkeypatch.setattr(launching, "visible_gpus", lambda gpus=gpus: gpus)
        assert Launch.of(wanted) == Launch(1, processes, True)
    assert Launch.of({"nodes": 2, "processes": 3}) == Launch(1, 6)
    assert Launch.of({}) == Launch(1, 1)
    assert Launch(3, 2).count == 6


def test_processes_get_equal_arguments():
    """What a stage of a cell is called with, as each process makes it again of the JSON."""
    cell = Cell("g", "lora", "nq", "bm5", 7)
    params = cell_stages(load_config(SMALL), cell)["finetune_cell"]
    given = {"params": params, "cell": cell, "out_dir": Path("x/y"), "save_every": SaveEvery(steps=3)}
    received = json.loads(json.dumps(launching.plain(given)))

    @validate_call
    def stage(params: FinetuneParams, cell: Cell, out_dir: Path, save_every: SaveEvery | None = None):
        return {"params": params, "cell": cell, "out_dir": out_dir, "save_every": save_every}

    found = stage(**received)
    assert found == given
    assert found["params"].text() == params.text(), "the same checkpoints are continued"


def test_gpus_in_sight(monkeypatch):
    for text, count in (("0,1", 2), ("", 0), ("-1", 0), ("GPU-a, GPU-b", 2)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)
        assert launching.visible_gpus() == count


@pytest.mark.parametrize("asked", [{"gpu": 2, "nodes": 1}, {"gres": "gpu:h100:2", "nodes": 2}])
def test_a_job_that_asks_for_gpus_and_sees_fewer(asked, monkeypatch, caplog):
    """One line here; refused in a job of Slurm that sees none."""
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    for visible, said in (
        ("4,5", []),
        ("4", ["this job asks for 2 GPUs and sees 1"]),
        ("", ["none: it computes on the"]),
    ):
        caplog.clear()
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        check_gpus(asked)
        assert len(caplog.messages) == len(said)
        assert all(part in message for part, message in zip(said, caplog.messages, strict=True))
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with pytest.raises(ClusterError, match="job 17 of Slurm asks for 2 GPUs and sees none"):
        check_gpus(asked)
    check_gpus({"nodes": 1, "mem_mb": 100})


def test_entries_that_ask_for_gpus_are_named_where_there_are_none(monkeypatch):
    values = {**SMALL, "rule_resources": {"embed_passages": {"gpus": 3}, "build_index": {"gpus": 1}}}
    name = next(iter(SMALL["models"]))
    values["models"] = {**SMALL["models"], name: {**SMALL["models"][name], "resources": {"gpus": 2}}}
    jobs = [(rule, {"model": name}) for rule in ("embed_passages", "finetune_cell", "predict_cell", "cache_neighbors")]
    asked = Requests(load_config(values), {}).by_entry(jobs)
    entries = f"models.{name}.resources.gpus: 2, rule_resources.embed_passages.gpus: 3"
    assert unseen_gpus(asked) == f"{entries}, but no GPU is in sight here: jobs use the CPU"
    assert unseen_gpus({"models.x.resources": ModelResources()}) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert unseen_gpus(asked) is None


def test_every_job_that_asks_for_gpus_looks_for_them(repository):
    """Rules have the resources of `REQUESTS`; of these, two use no GPU."""
    text = "\n".join(path.read_text() for path in sorted((repository / "workflow/rules").glob("*.smk")))
    rules = re.findall(r"^rule (\w+):((?:\n(?!rule ).*)*)", text, re.MULTILINE)
    asking = {name for name, body in rules if "**REQUESTS." in body} - {"chunk_corpus", "convert_model"}
    assert len(asking) >= 8
    for name in asking:
        text = (repository / f"workflow/scripts/{name}.py").read_text()
        assert "check_gpus(snakemake.resources)" in text, name


def test_arguments_become_json():
    assert launching.plain({"a": Path("x/y"), "b": SHAPE, "c": [1, None]}) == {
        "a": "x/y", "b": SHAPE.given(), "c": [1, None],
    }  # fmt: skip
