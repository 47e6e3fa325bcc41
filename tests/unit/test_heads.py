"""Heads of runs: one for each study, and turns in a folder of resources that studies share."""

import errno
import os
import re
import socket
import subprocess
import sys
import threading
import time

import pytest

from retrotune.errors import BusyError
from retrotune.runtime import heads
from retrotune.runtime.heads import Head, Resources, claim_study, living

OTHER = """
import sys, time
from retrotune.runtime.heads import Head, claim_study
claim_study(sys.argv[1], Head.here("towns", ["logs/towns/a.log"]), print)
print("has it", flush=True)
time.sleep(600)
"""


@pytest.fixture
def warnings():
    return []


@pytest.fixture
def head_of(tmp_path, warnings):
    """Makes the resources of a head of another study, as several processes would have."""
    return lambda study: Resources(tmp_path / "shared", Head.here(study), warnings.append)


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "there").touch()
    return {name: str(folder / name) for name in ("there", "new", "another")} | {"cell": str(tmp_path / "cell")}


def test_a_second_head_is_told_of_the_first_which_a_kill_frees(tmp_path, warnings):
    study = tmp_path / "results/towns"
    assert living(study) is None
    process = subprocess.Popen([sys.executable, "-c", OTHER, str(study)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "has it\n"
        head = living(study)
        assert (head.process, head.host, head.planned) == (process.pid, socket.gethostname(), {"logs/towns/a.log"})
        assert abs(head.began - time.time()) < 60
        since = r"process \d+ on \S+ \(study towns, since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\)"
        with pytest.raises(BusyError, match=rf"results/towns is being worked on by {since}: .* -c ") as refused:
            claim_study(study, Head.here("towns"), warnings.append)
        assert f"kill -INT {process.pid} on " in str(refused.value)
    finally:
        process.kill()
        process.wait()
    assert living(study) is None
    claim_study(study, Head.here("towns"), warnings.append)
    assert living(study).process == os.getpid(), "what the first said is gone"
    assert not warnings


def test_who_asks_for_the_head_at_that_moment_does_not_pass_for_one(tmp_path, warnings):
    claim_study(tmp_path, Head.here("towns"), warnings.append).release()
    with open(tmp_path / heads.STUDY, "rb") as stream:
        heads.fcntl.flock(stream, heads.fcntl.LOCK_SH)
        threading.Timer(0.2, heads.fcntl.flock, (stream, heads.fcntl.LOCK_UN)).start()
        claim_study(tmp_path, Head.here("towns"), warnings.append)


def test_without_locks_a_warning_and_what_the_last_head_said_must_do(tmp_path, warnings, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(heads.fcntl, "flock", refuse)
    claim_study(tmp_path, Head("towns", os.getppid(), socket.gethostname(), "snakemake"), warnings.append)
    assert re.search(r"\.lock cannot be locked \(.*No locks available", warnings[0])
    assert living(tmp_path).process == os.getppid()
    with pytest.raises(BusyError, match=f"process {os.getppid()} on"):
        claim_study(tmp_path, Head.here("towns"), warnings.append)
    monkeypatch.setattr(heads, "_lives", lambda head: False)
    assert living(tmp_path) is None
    claim_study(tmp_path, Head.here("towns"), warnings.append)


def waits(claim, free):
    """Whether a claim waits until something is freed; what it says then."""
    said = []
    thread = threading.Thread(target=lambda: said.append(claim()), daemon=True)
    thread.start()
    thread.join(1.5)
    assert thread.is_alive(), "it did not wait"
    free()
    thread.join(10)
    return said[0]


def test_of_two_heads_that_make_files_one_waits_and_plans_again(head_of, files, warnings):
    first, second = head_of("a"), head_of("b")
    assert first.claim([files["new"], files["cell"]], [files["new"]])
    assert not waits(lambda: second.claim([files["new"]], [files["new"]]), first.made)
    assert re.fullmatch(
        r"waiting for process \d+ on \S+ \(study a, .*\), which .*/shared and makes files in it", *warnings
    )
    assert head_of("b").claim([files["cell"]], [files["cell"]]), "made, and only read"


def test_a_plan_older_than_what_another_head_has_made_is_made_again(head_of, files):
    assert not head_of("a").claim([files["there"]], [files["there"]])


def test_new_files_disturb_nobody_and_files_made_again_disturb_all(head_of, files, warnings):
    reader, maker, again = head_of("reader"), head_of("maker"), head_of("again")
    assert reader.claim([files["cell"]], [])
    assert maker.claim([files["new"]], [files["new"]])
    maker.made()
    assert not waits(
        lambda: again.claim([files["there"]], []), lambda: [one._reading.release() for one in (reader, maker)]
    )
    assert "shared/there for one, have to be made again here" in warnings[0]
    assert again.claim([files["there"]], [])
    assert not waits(lambda: head_of("late").claim([], []), again.made)
    assert head_of("late").claim([], [])


def test_a_folder_that_cannot_be_written_is_read_without_a_word(head_of, files, warnings, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(heads.os, "open", refuse)
    assert head_of("reader").claim([files["cell"]], [])
    assert not warnings
    assert head_of("maker").claim([files["new"]], [])
    assert "cannot be locked" in warnings[0]
