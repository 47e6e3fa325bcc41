"""Logs of stages: everything a stage prints, and an error's message on the terminal."""

import logging
import subprocess
import sys

import pytest

from retrotune.log import logger, progress, read_end

PAUSE = """
import os, time
from retrotune.log import stage_log
out = os.dup(1)
with stage_log({log!r}):
    os.write(out, b"ready\\n")
    time.sleep(60)
"""


def run(body, log):
    imports = "from retrotune.log import stage_log, logger\nfrom retrotune.errors import DataError\n"
    code = f"{imports}with stage_log({str(log)!r}):\n    {body}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_what_a_stage_prints_goes_to_its_log(tmp_path):
    log = tmp_path / "logs" / "a.log"
    done = run("logger.info('hello'); print('printed'); import os; os.system('echo child')", log)
    assert done.returncode == 0
    assert done.stdout == done.stderr == ""
    assert [line.split(" ", 1)[-1] for line in log.read_text().split("\n") if "hello" in line] == ["INFO hello"]
    assert "child" in log.read_text()


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


def test_progress_tells_rate_and_rest(caplog):
    logger.propagate = True
    with caplog.at_level(logging.INFO, logger="retrotune"):
        assert list(progress([1, 2], "things", every_seconds=0)) == [1, 2]
    assert "things: 1 of 2" in caplog.text
    assert "s left" in caplog.text


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
