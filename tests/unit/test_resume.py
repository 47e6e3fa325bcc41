"""A run that is interrupted anywhere, however often, ends as one that is not: same adapter, model and answers."""

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import time
from random import Random

import pytest
import torch
from test_training_stages import CELL, METHODS, RECIPE, answering, pretraining, root, training

from retrotune.errors import Interrupted, TrainingError
from retrotune.prediction import generate
from retrotune.prediction.generate import predict_cell
from retrotune.runtime import interruption
from retrotune.runtime.files import sha256
from retrotune.runtime.lifecycle import stage_log
from retrotune.study.config import SaveEvery
from retrotune.training.checkpoints import last_checkpoint
from retrotune.training.finetune import finetune_cell
from retrotune.training.planned import PlannedBatches
from retrotune.training.pretrain import pretrain_model

__all__ = ["root"]
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
MEASURED = ("seconds", "peak_memory_bytes", "energy_joules", "made")


class Death(BaseException):
    """Ends a run at once, as kill -9 does."""


@pytest.fixture(autouse=True)
def _handlers():
    """Signal handlers as they were, after each test."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    interruption.forget()


def contents(folder):
    """Checksums of a stage's files; what was measured is left out of JSON."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix in (".json", ".jsonl"):
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            values = [json.loads(line) for line in lines]
            found[name] = [{key: value for key, value in part.items() if key not in MEASURED} for part in values]
        elif path.is_file():
            found[name] = sha256(path)
    return found


def finetune(root, out, method, save_every=None, steps=8):
    params = training("retro", method, learning_rate=0.02, max_steps=steps, micro_batch_size=2)
    inputs = (root / "retro", root / "train.parquet", root / "neighbors.parquet")
    finetune_cell(params, CELL, *inputs, out, out.with_name("work"), threads=1, save_every=save_every)


def pretrain(root, out, family, save_every=None):
    recipe = RECIPE.model_copy(update={"steps": 9})
    pretrain_model(
        pretraining(family, recipe), root, root / "tokenizer.json", root / "documents.json", out,
        out.with_name("work"), threads=1, save_every=save_every,
    )  # fmt: skip


def until_done(monkeypatch, run, rng, owner, method, calls):
    """Interrupt `run` by signals and deaths within random calls of `owner.method` until it ends; how often it took."""
    original = getattr(owner, method)
    interruptions = 0
    while True:
        left = iter(range(rng.randrange(1, calls)))
        kind = rng.choice((*SIGNALS, None))

        def interrupting(self, *arguments, left=left, kind=kind):
            if next(left, None) is None:
                if kind is None:
                    raise Death
                os.kill(os.getpid(), kind)
            return original(self, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(owner, method, interrupting)
            interruption.listen()
            try:
                run(SaveEvery(steps=rng.randrange(1, 4)))
                return interruptions
            except (Interrupted, Death) as end:
                stopped = str(end)
            assert kind is None or f"stopped by {kind.name}: " in stopped
        interruptions += 1
        assert interruptions < 100, "the run makes no progress"


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.kind)
def test_finetuning(root, tmp_path, monkeypatch, method):
    if hasattr(method, "dropout"):
        method = method.model_copy(update={"dropout": 0.2})  # the generators' states must survive too
    finetune(root, tmp_path / "whole" / "cell", method)
    expected = contents(tmp_path / "whole" / "cell")
    assert any(name.endswith(".safetensors") for name in expected)
    interruptions = 0
    for seed in range(2):
        out = tmp_path / str(seed) / "cell"
        interruptions += until_done(
            monkeypatch, lambda every, out=out: finetune(root, out, method, every), Random(seed),
            PlannedBatches, "__getitem__", calls=16,
        )  # fmt: skip
        assert contents(out) == expected
        assert not list(out.with_name("work").rglob("checkpoint*"))
    assert interruptions > 1


@pytest.mark.parametrize("family", ["gpt", "retro"])
def test_pretraining(root, tmp_path, monkeypatch, family):
    monkeypatch.setattr("retrotune.training.base.LOG_LINES", 3)  # a line for three steps: their loss must survive too
    pretrain(root, tmp_path / "whole" / "model", family)
    expected = contents(tmp_path / "whole" / "model")
    assert [line["step"] for line in expected["train_log.jsonl"]] == [3, 6, 9]
    for seed in range(2):
        out = tmp_path / str(seed) / "model"
        until_done(
            monkeypatch, lambda every, out=out: pretrain(root, out, family, every), Random(seed),
            PlannedBatches, "__getitem__", calls=9,
        )  # fmt: skip
        assert contents(out) == expected


def test_prediction(root, tmp_path, monkeypatch):
    finetune(root, tmp_path / "cell", METHODS[0])
    params = answering("retro", METHODS[0], batch_size=1)

    def predict(out):
        inputs = (root / "retro", tmp_path / "cell" / "adapter", root / "train.parquet", root / "neighbors.parquet")
        predict_cell(params, CELL, *inputs, out / "p.jsonl", out / "s.json", out.with_name("work"), threads=1)

    predict(tmp_path / "whole" / "cell")
    for seed in range(2):
        out = tmp_path / str(seed) / "cell"
        until_done(monkeypatch, lambda _, out=out: predict(out), Random(seed), generate._Generator, "__call__", calls=4)
        assert contents(out) == contents(tmp_path / "whole" / "cell")


def test_a_damaged_checkpoint_is_passed_over(root, tmp_path, monkeypatch, caplog):
    method = METHODS[0]
    finetune(root, tmp_path / "whole" / "cell", method)
    rng = Random(5)
    for damage in ("flip", "counters", "gone"):
        out, work = tmp_path / damage / "cell", tmp_path / damage / "work" / "finetune"
        with monkeypatch.context() as patch:
            original = PlannedBatches.__getitem__
            patch.setattr(PlannedBatches, "__getitem__", lambda self, at, o=original: o(self, at) if at < 14 else 1 / 0)
            with pytest.raises(ZeroDivisionError):
                finetune(root, out, method, SaveEvery(steps=1))
        newest, before = (work / f"checkpoint-{step}" for step in (6, 5))
        assert sorted(work.glob("checkpoint-*")) == [before, newest], "the last two are kept"
        file = newest / rng.choice(["trained.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"])
        content = bytearray(file.read_bytes())
        if damage == "flip":
            content[rng.randrange(len(content))] ^= 1
            file.write_bytes(content)
        elif damage == "counters":
            counters = newest / "progress.json"
            counters.write_text(counters.read_text().replace('"tokens": ', '"tokens": 1'))
        else:
            file.unlink()
        caplog.clear()
        with caplog.at_level("INFO", logger="retrotune"):
            finetune(root, out, method, SaveEvery(steps=1))
        assert f"{newest} is damaged" in caplog.text
        assert f"resuming from {before}" in caplog.text
        assert contents(out) == contents(tmp_path / "whole" / "cell")


def test_a_checkpoint_that_cannot_be_written_leaves_no_half_one(root, tmp_path, monkeypatch):
    def full(*arguments, **keywords):
        raise RuntimeError("[enforce fail at inline_container.cc] file write failed: No space left on device")

    out = tmp_path / "cell"
    with monkeypatch.context() as patch:
        patch.setattr("torch.save", full)
        with pytest.raises(TrainingError, match="checkpoint-3: the checkpoint cannot be written .*No space left"):
            finetune(root, out, METHODS[0], SaveEvery(steps=3))
    assert last_checkpoint(tmp_path / "work" / "finetune") is None
    assert not list((tmp_path / "work").rglob("checkpoint-*"))


def slow_stage(root, out, log):
    """A stage of a process of its own, as the workflow's scripts run it, slow enough to be hit anywhere."""
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 (not what pytest puts there)
    original = PlannedBatches.__getitem__

    def slow(self, place):
        time.sleep(0.01)
        return original(self, place)

    PlannedBatches.__getitem__ = slow
    with stage_log(str(log)):
        finetune(root, out, METHODS[1], SaveEvery(steps=7), steps=20)
    os._exit(0)


def test_signals_to_a_process(root, tmp_path):
    """Real signals at random moments; the process says what happened and exits with the status for another try."""
    finetune(root, tmp_path / "whole" / "cell", METHODS[1], steps=20)
    rng, log, ends = Random(1), tmp_path / "stage.log", []
    start = "spawn" if torch.cuda.is_available() else "fork"  # a fork is fast, but has no GPU
    out = tmp_path / "cut" / "cell"
    while not ends or ends[-1] != 0:
        process = multiprocessing.get_context(start).Process(target=slow_stage, args=(root, out, log))
        log.unlink(missing_ok=True)
        process.start()
        while process.is_alive() and not (log.exists() and "parameters" in log.read_text()):
            time.sleep(0.01)
        process.join(rng.uniform(0, 0.4))
        number = (
            rng.choice((signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL)) if len(ends) > 3 else SIGNALS[len(ends) % 3]
        )
        with contextlib.suppress(ProcessLookupError):  # it may have ended
            os.kill(process.pid, number)
        process.join()
        ends.append(process.exitcode)
        last = log.read_text().splitlines()[-1]
        if process.exitcode == interruption.STATUS:
            assert last.startswith(f"ended: stopped by {number.name}: step ")
            assert last.endswith("run again to go on")
        else:
            assert process.exitcode in (0, -signal.SIGKILL), log.read_text()
            assert ("finished" in last) == (process.exitcode == 0)
        assert len(ends) < 60, "the run makes no progress"
    assert interruption.STATUS in ends
    assert contents(out) == contents(tmp_path / "whole" / "cell")
