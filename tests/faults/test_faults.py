"""Faults on one machine. After each the study runs to its end, with the results of an undisturbed run."""

import os
import shutil
import signal
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from fault_study import Study, rounds

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("RETROTUNE_FAULT_ROUNDS", "2"))
LORA = "retro-tiny/lora/nq/words2/seed0"
PTUNING = "retro-tiny/ptuning/nq/words2/seed0"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The study, finished without a fault."""
    study = Study(tmp_path_factory.mktemp("faults"))
    started = time.monotonic()
    study.finish()
    study.seconds = time.monotonic() - started
    return study


@pytest.fixture
def expected(study):
    return study.results()


@contextmanager
def tmpfs(folder: Path, size: int):
    """An empty disk of `size` bytes in memory in place of `folder`; yields a function that changes its options."""
    kept = folder.rename(folder.with_name(f"{folder.name}-kept"))
    folder.mkdir()

    def mount(*options: str) -> None:
        subprocess.run(["mount", *options, str(folder)], check=True, capture_output=True, text=True)

    try:
        mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs")
    except (OSError, subprocess.CalledProcessError) as error:
        folder.rmdir()
        kept.rename(folder)
        pytest.skip(f"a small disk needs the right to mount a file system here: {getattr(error, 'stderr', error)}")
    try:
        yield lambda options: mount("-o", f"remount,{options}")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()
        kept.rename(folder)


def at_work(log):
    """The process of the stage with this log."""
    (process,) = (int(line.rsplit(" ", 1)[1]) for line in log.read_text().splitlines() if "started on" in line)
    return process


def test_kills_at_random_moments(study):
    ends = list(rounds(study, ROUNDS, seed=int(os.environ.get("RETROTUNE_FAULT_SEED", "0")), seconds=study.seconds / 2))
    assert all(good for _, good in ends), "\n".join(what for what, _ in ends)


def test_a_killed_cell_fails_alone_and_goes_on_from_the_checkpoint_before_a_damaged_one(study, expected):
    shutil.rmtree(study.cells)
    checkpoints = study.work / LORA / "finetune"
    head = study.start()
    log = study.folder / f"logs/faults/finetune_cell/{LORA}.log"
    assert study.wait_for(head, lambda: len(list(checkpoints.glob("checkpoint-*/progress.json"))) > 1), study.said
    process = at_work(log)
    os.kill(process, signal.SIGSTOP)
    second = study.run()
    assert second.returncode != 0
    assert f"results/faults is being worked on by process {head.pid} on " in second.stdout
    os.kill(process, signal.SIGKILL)
    assert head.wait() != 0
    assert "Error in rule finetune_cell" in study.said
    assert str(log.relative_to(study.folder)) in study.said
    done = {path.parent.relative_to(study.cells).as_posix() for path in study.cells.rglob("metrics.json")}
    assert done == {path.removeprefix("results/faults/cells/").removesuffix("/metrics.json")
                    for path in expected if path.endswith("metrics.json")} - {LORA}, "the others went on"  # fmt: skip
    printed = study.retrotune("tables")
    assert f"{LORA}: killed without a word" in printed
    assert f"(log: logs/faults/finetune_cell/{LORA}.log)" in printed

    newest, before = sorted(checkpoints.glob("checkpoint-*"), key=lambda path: -int(path.name[11:]))[:2]
    weights = newest / "trained.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\1\2\3")
    study.finish()
    assert f"{newest.relative_to(study.folder)} is damaged (trained.safetensors: checksum differs)" in log.read_text()
    assert f"resuming from {before.relative_to(study.folder)}" in log.read_text()
    assert study.results() == expected


def test_status_tells_a_run_from_one_that_was_interrupted(study, expected):
    shutil.rmtree(study.cells)
    head = study.start()
    checkpoints = study.work / LORA / "finetune"
    assert study.wait_for(head, lambda: list(checkpoints.glob("checkpoint-*/progress.json"))), study.said
    log = study.folder / f"logs/faults/finetune_cell/{LORA}.log"
    process = at_work(log)
    os.kill(process, signal.SIGSTOP)  # it would have ended before the command has looked
    printed = study.retrotune("status")
    os.kill(process, signal.SIGCONT)
    assert f"snakemake at work: process {head.pid} on " in printed
    assert f"{LORA}: finetune_cell, last word" in printed
    assert "0 missing" in printed, "the others wait"
    os.killpg(head.pid, signal.SIGINT)
    assert head.wait() != 0
    assert "stopped by SIGINT" in log.read_text()
    printed = study.retrotune("status")
    assert "no snakemake is at work" in printed
    assert "0 queued, 0 running, 0 failed" in printed
    study.finish()
    assert study.results() == expected


def test_a_full_and_a_read_only_disk(study, expected):
    results = study.folder / "results"
    size = sum(path.stat().st_size for path in (results / "faults/cells").rglob("*") if path.is_file())
    with tmpfs(results, size=size // 2) as remount:
        full = study.run()
        assert full.returncode != 0
        assert "No space left on device" in full.stdout, full.stdout
        assert "mend that and run again" in full.stdout or "make room" in full.stdout
        remount("size=200m")
        study.finish()
        assert study.results() == expected

        shutil.rmtree(study.cells / PTUNING)
        remount("ro")
        refused = study.run()
        assert refused.returncode != 0
        assert "Write-protected output files" in refused.stdout, "before anything runs"
        remount("rw")
        study.finish()
        assert study.results() == expected


def test_an_output_that_appears_late(study, expected):
    """As on a network file system: what a job on another node wrote is seen some time after the job has ended."""
    target = study.cells / LORA / "metrics.json"
    target.unlink()
    hidden = study.folder / "hidden.json"
    head = study.start()
    assert study.wait_for(head, target.exists), study.said
    target.rename(hidden)
    threading.Timer(2.5, lambda: hidden.rename(target)).start()
    assert head.wait() == 0, study.said
    assert "for missing files" in study.said, study.said
    assert study.results() == expected
