"""Scripts that continue as forks of a process that has imported: they must behave as if they ran by themselves."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from retrotune.runtime import warm
from retrotune.runtime.devices import visible_gpus

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or visible_gpus(), reason="scripts run by themselves outside of Linux and with GPUs"
)

START = """import os
from retrotune.runtime import warm
first = os.getpid()
warm.continue_in_fork(['colorsys'])
import sys
"""
OWNER = """
import os, subprocess, sys
from retrotune.runtime import warm
warm.own_scripts()
sys.exit(max(map(abs, (subprocess.run([sys.executable, *line.split()]).returncode for line in sys.stdin))))
"""
"""Stands for Snakemake: runs scripts one after the other, which belong to it."""


class Owner:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, cwd=folder, env={**os.environ, "GREETING": "hello", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def start(self, body: str, *arguments: str) -> None:
        path = self.folder / f"{len(list(self.folder.glob('*.py')))}.py"
        path.write_text(START + body)
        self.process.stdin.write(f"{path} {' '.join(arguments)}\n")
        self.process.stdin.flush()

    def end(self) -> tuple[int, str, str]:
        """Status and output of the scripts."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err

    def below(self, name: str) -> list[psutil.Process]:
        """Children of this process with a word in their command line; forks are children of one of them."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.Error):
                found += [child] if any(name in part for part in child.cmdline()) else []
        return found

    def wait_for(self, path: Path) -> str:
        limit = time.monotonic() + 30
        while not path.exists() or not path.read_text():
            assert time.monotonic() < limit, path
            time.sleep(0.01)
        return path.read_text()


@pytest.fixture
def owner(tmp_path):
    owner = Owner(tmp_path)
    yield owner
    owner.process.kill()


SEEN = """
import json
loaded = "colorsys" in sys.modules
seen = [sys.argv[1:], os.getcwd(), os.environ["GREETING"], __name__]
seen += [warm.OWNER in os.environ, loaded, os.getpid() != first]
print(json.dumps(seen))
"""


def test_a_fork_is_the_script(owner, tmp_path):
    owner.start(SEEN, "a", "b")
    owner.start(SEEN.replace("print(", "sys.exit(3); print("))
    owner.start(SEEN)
    status, out, _ = owner.end()
    assert status == 3
    for line, arguments in zip(out.splitlines(), (["a", "b"], []), strict=True):
        # `first` is the script's own process: its text runs again in the fork, from the start
        assert json.loads(line) == [arguments, str(tmp_path), "hello", "__main__", False, True, False]


def test_errors_are_the_scripts_own(owner):
    owner.start("raise ValueError('no use')\n")
    status, _, err = owner.end()
    assert status == 1
    assert err.rstrip().endswith("ValueError: no use")


def test_scripts_share_one_process_that_ends_with_its_owner(owner, tmp_path):
    for number in range(3):
        owner.start(f"open('{number}.txt', 'w').write(str(os.getppid()))\n")
    parents = {owner.wait_for(tmp_path / f"{number}.txt") for number in range(3)}
    (server,) = owner.below("retrotune.runtime.warm")  # below Snakemake, for whoever ends or measures what is there
    assert parents == {str(server.pid)}
    assert owner.end()[0] == 0
    psutil.wait_procs([server], timeout=10)
    assert not server.is_running()


SLOW = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(open('stopped.txt', 'w').write('5')))
open('fork.txt', 'w').write(str(os.getpid()))
while True:
    time.sleep(0.05)
"""


def test_signals_reach_the_fork(owner, tmp_path):
    owner.start(SLOW)
    owner.wait_for(tmp_path / "fork.txt")
    (script,) = owner.below("0.py")
    script.terminate()
    assert owner.end()[0] == 1
    assert owner.wait_for(tmp_path / "stopped.txt") == "5"


@pytest.mark.parametrize("killed", ["script", "owner"])
def test_a_fork_that_nobody_waits_for_stops(owner, tmp_path, killed):
    owner.start(SLOW)
    fork = psutil.Process(int(owner.wait_for(tmp_path / "fork.txt")))
    (script,) = owner.below("0.py")
    (script if killed == "script" else owner.process).kill()
    assert owner.wait_for(tmp_path / "stopped.txt") == "5"
    psutil.wait_procs([fork], timeout=10)


def test_a_script_dies_as_its_fork(owner, tmp_path):
    owner.start(SLOW)
    os.kill(int(owner.wait_for(tmp_path / "fork.txt")), signal.SIGKILL)
    assert owner.end()[0] == signal.SIGKILL


def test_without_an_owner_a_script_runs_by_itself(tmp_path):
    path = tmp_path / "alone.py"
    path.write_text(START + "print(os.getpid() == first, 'colorsys' in sys.modules)\n")
    for value in ("off", "", "999999999"):
        environment = {**os.environ, warm.OWNER: value}
        done = subprocess.run([sys.executable, path], env=environment, capture_output=True, text=True, timeout=60)
        assert done.stdout == "True False\n", (value, done.stderr)


def test_who_owns_scripts(monkeypatch):
    monkeypatch.setenv(warm.OWNER, "off")
    warm.own_scripts()
    assert os.environ[warm.OWNER] == "off"
