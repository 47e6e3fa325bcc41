"""Logs of stages: everything a stage prints, and an error's message on the terminal."""

import io
import logging
import os
import subprocess
import sys

import pytest

from retrotune.runtime.lifecycle import read_end
from retrotune.runtime.log import Progress, duration, logger, progress, setup_logging

PAUSE = """
import os, time
from retrotune.runtime.lifecycle import stage_log
out = os.dup(1)
with stage_log({log!r}):
    os.write(out, b"ready\\n")
    time.sleep(60)
"""


def run(body, log):
    imports = (
        "from retrotune.runtime.lifecycle import stage_log\nfrom retrotune.runtime.log import logger\n"
        "from retrotune.errors import DataError\n"
    )
    code = f"{imports}with stage_log({str(log)!r}):\n    {body}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_what_a_stage_prints_goes_to_its_log(tmp_path):
    log = tmp_path / "logs" / "a.log"
    done = run("logger.info('hello'); print('printed'); import os; os.system('echo child')", log)
    assert done.returncode == 0
    assert done.stdout == done.stderr == ""
    assert [line.split(" ", 1)[-1] for line in log.read_text().split("\n") if "hello" in line] == ["INFO hello"]
    assert "child" in log.read_text()


FOREIGN = """
import logging, sys, warnings
if {early}: import transformers, tqdm.auto
with stage_log({log!r}):
    import transformers, tqdm.auto
    from huggingface_hub.utils import tqdm as of_hub
    list(tqdm.auto.tqdm(range(3), desc="Loading"))
    for bar in (transformers.utils.logging.tqdm, of_hub):
        list(bar(range(3), desc="Loading", disable=False))
    for number in range(2):
        warnings.warn_explicit("two\\nlines", UserWarning, "/x/site-packages/peft/mapping.py", number, registry={{}})
        warnings.warn_explicit("renamed", FutureWarning, "/x/site-packages/torch/nn.py", number, registry={{}})
        logging.getLogger("accelerate.hooks").warning("slow %d", 3)
        logging.getLogger("transformers.generation").warning("no attention mask")
    logger.warning("ours")
    logger.warning("ours")
"""


@pytest.mark.parametrize("early", [True, False])
def test_other_libraries_draw_no_bars_and_warn_once(tmp_path, early):
    """Whether they are imported before the stage begins (as in a warm process) or by it."""
    log = tmp_path / "a.log"
    code = "from retrotune.runtime.lifecycle import stage_log\nfrom retrotune.runtime.log import logger\n"
    code += FOREIGN.format(log=str(log), early=early)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, log.read_text()
    said = [line.split(" ", 1)[1] for line in log.read_text().splitlines()]
    assert said[1:-1] == ["WARNING peft: two lines", "WARNING accelerate: slow 3", "WARNING ours", "WARNING ours"]


def test_an_error_of_the_user_has_no_traceback(tmp_path):
    done = run("raise DataError('x.json:3: broken')", tmp_path / "a.log")
    assert done.returncode == 1
    assert done.stderr == f"error: x.json:3: broken (log: {tmp_path / 'a.log'})\n"
    assert "Traceback" not in (tmp_path / "a.log").read_text()


def test_any_other_error_keeps_its_traceback(tmp_path):
    done = run("1 / 0", tmp_path / "a.log")
    assert done.returncode == 1
    assert done.stderr == f"failed: ZeroDivisionError: division by zero (log: {tmp_path / 'a.log'})\n"
    assert "ZeroDivisionError" in (tmp_path / "a.log").read_text()


def test_what_the_system_refuses_is_named_on_the_terminal(tmp_path):
    done = run("raise OSError(28, 'No space left on device', 'big.npy')", tmp_path / "a.log")
    assert done.returncode == 1
    assert "No space left on device: 'big.npy'" in done.stderr
    assert "Traceback" in (tmp_path / "a.log").read_text()


class Clock:
    """Time that passes when told to."""

    now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def lines(caplog, monkeypatch):
    """Lines of the log."""
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.INFO, logger="retrotune")
    return lambda: [record.getMessage() for record in caplog.records]


def advance(shown, clock, *steps):
    for seconds, count, kept in steps:
        clock.now += seconds
        shown.advance(count, kept)


def test_progress_in_a_log_file(lines, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    clock = Clock()
    with Progress("passages embedded", 21_015_324, clock=clock) as shown:
        advance(shown, clock, (9, 9_000, False), (2, 2_000, False), (9, 1, False), (989, 998_998, False))
        assert lines() == [
            "passages embedded: 11,000 of 21,015,324 (0%), 1,000/s, 5 h 50 min left",
            "passages embedded: 1,009,999 of 21,015,324 (5%), 1,001/s, 5 h 33 min left",
        ]
    assert lines()[2:] == ["passages embedded: 1,009,999 in 16 min 49 s, 1,001/s"]
    assert sys.stderr.getvalue() == ""


def test_progress_in_a_terminal_is_one_live_line(lines, monkeypatch):
    terminal, clock = Terminal(), Clock()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("texts searched", 40, clock=clock) as shown:
        advance(shown, clock, (1, 10, False), (0.1, 1, False), (0.9, 9, False))
    line = "texts searched: {} of 40 ({}%), 10/s, {} s left"
    assert terminal.getvalue() == f"\r\x1b[K{line.format(10, 25, 3)}\r\x1b[K{line.format(20, 50, 2)}\r\x1b[K"
    assert lines() == []


def test_a_log_line_takes_the_place_of_the_live_line(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    setup_logging(plain=True)
    terminal.write("texts searched: 10")
    logger.info("block done")
    assert terminal.getvalue() == "texts searched: 10\r\x1b[Kblock done\n"


def test_what_an_earlier_run_did_says_nothing_about_the_rate(lines):
    clock = Clock()
    shown = Progress("passages embedded", 1000, clock=clock)
    advance(shown, clock, (1, 900, True), (19, 50, False))
    assert lines() == ["passages embedded: 950 of 1,000 (95%), 2.5/s, 20 s left"]


def test_without_a_total_there_is_no_remaining_time(lines):
    clock = Clock()
    advance(Progress("documents read", clock=clock), clock, (20, 7, False))
    assert lines() == ["documents read: 7, 0.35/s"]


def test_a_short_stage_is_silent(lines):
    assert list(progress([1, 2], "things")) == [1, 2]
    assert lines() == []


def test_progress_through_items_counts_their_units(lines):
    items = ["abc", "de"]
    assert list(progress(items, "letters", 5, every_seconds=0, size=len)) == items
    assert [line.split(",")[0] for line in lines()] == ["letters: 3 of 5 (60%)", "letters: 5 in 0 s"]
    assert list(progress(iter([]), "nothing", every_seconds=0)) == []


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3_900, "1 h 05 min"),
        (86_399, "23 h 59 min"),
        (183_600, "2 d 03 h"),
    ],
)
def test_durations(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("body", "state", "message"),
    [
        ("pass", "finished", ""),
        ("raise DataError('x.json:3:\\n  broken')", "failed", "error: x.json:3: broken"),
        ("1 / 0", "failed", "failed: ZeroDivisionError: division by zero"),
        ("import os; os.kill(os.getpid(), 15)", "stopped", "stopped by SIGTERM: nothing was left half written"),
        ("import os; os.kill(os.getpid(), 10)", "stopped", "stopped by SIGUSR1: nothing was left half written"),
        ("print('error: of a library'); import os; os.kill(os.getpid(), 9)", "failed", "killed without a word"),
        ("raise RuntimeError('x: No space left on device')", "failed", "error: x: No space left on device; mend that"),
    ],
)
def test_a_log_tells_how_its_stage_ended(tmp_path, body, state, message):
    log = tmp_path / "a.log"
    done = run(body, log)
    end = read_end(log)
    assert end.state == state
    assert end.message.startswith(message)
    assert done.returncode == {"finished": 0, "failed": 1, "stopped": 75}[state] or body.endswith("9)")


@pytest.mark.parametrize(
    ("shown", "queued"),
    [
        ("JobState=RUNNING Requeue=1 PreemptTime=2026-11-26T22:08:40", True),
        ("JobState=RUNNING Requeue=1 PreemptTime=None", False),
        ("JobState=RUNNING Requeue=0 PreemptTime=2026-11-26T22:08:40", False),
        ("JobState=COMPLETING Requeue=1 PreemptTime=2026-11-26T22:08:40", False),
    ],
)
def test_a_preempted_job_goes_back_into_slurms_queue(tmp_path, monkeypatch, shown, queued):
    """Not one that is canceled, near its time limit, forbidden to, or in the queue already."""
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\necho {shown}\n')
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    done = run("import os; os.kill(os.getpid(), 15)", tmp_path / "a.log")
    assert done.returncode == 75
    assert (tmp_path / "asked").read_text() == "show job 17\n" + "requeue 17\n" * queued
    assert ("job 17 is in Slurm's queue again" in read_end(tmp_path / "a.log").message) == queued


def test_a_stage_at_work_is_told_from_one_that_was_killed(tmp_path):
    log = tmp_path / "a.log"
    assert read_end(log) is None
    process = subprocess.Popen([sys.executable, "-c", PAUSE.format(log=str(log))], stdout=subprocess.PIPE)
    process.stdout.readline()
    assert read_end(log) == ("running", f"process {process.pid}")
    process.kill()
    process.wait()
    assert read_end(log).state == "failed"
    log.write_text(log.read_text().replace(" on ", " on another-"))
    assert read_end(log).state == "running", "what another computer does cannot be seen from here"


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    done = run("pass", tmp_path / "file" / "a.log")
    assert done.returncode == 1
    assert done.stderr.startswith("error: the log cannot be written (")
    assert "Traceback" not in done.stderr


def test_a_second_process_waits_for_the_first(tmp_path):
    log = tmp_path / "a.log"
    first = subprocess.Popen([sys.executable, "-c", PAUSE.format(log=str(log))], stdout=subprocess.PIPE)
    first.stdout.readline()
    second = subprocess.Popen(
        [sys.executable, "-c", PAUSE.format(log=str(log))], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert second.stderr.readline() == f"waiting for the process that still writes {log}\n"
    assert read_end(log) == ("running", f"process {first.pid}")
    first.kill()
    assert second.stdout.readline() == "ready\n"
    assert read_end(log) == ("running", f"process {second.pid}")
    second.kill()


def test_a_stage_stops_when_its_parent_dies(tmp_path):
    log = tmp_path / "a.log"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {PAUSE.format(log=str(log))!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE)
    process.stdout.readline()
    process.kill()
    assert process.stdout.read() == b"", "the stage has ended"
    assert read_end(log).state == "stopped"
