"""Logs of stages: everything a stage prints, and an error's message on the terminal."""

import logging
import subprocess
import sys

from retrotune.log import logger, progress


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
