"""For runs on CPUs: scripts that start in no time, as forks of a process that has imported what stages need.

Importing torch, transformers and peft takes a core four to six seconds, and one Snakemake process starts hundreds of
scripts that do. So the first script of a Snakemake process starts another process, which imports once and then waits.
Each script continues as a fork of that one, and itself only passes on signals and the exit status. The waiting process
ends with the Snakemake that it belongs to. Twelve predictions of the demo take 55 s of a core so, 184 s without.

Linux only. With GPUs scripts run by themselves: CUDA does not survive a fork, and seconds do not matter there.
"""

import contextlib
import ctypes
import gc
import hashlib
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from retrotune.runtime import interruption
from retrotune.runtime.devices import visible_gpus

OWNER = "RETROTUNE_WARM"
"""Environment variable: the process that scripts belong to; `off`: each script imports for itself."""
MODULES = (
    "snakemake.iocontainers",
    "snakemake.logging",
    "retrotune.training.finetune",
    "retrotune.prediction.generate",
    "retrotune.scoring.score",
    # read by functions of these, three seconds for each script
    "pandas",
    "rouge_score.rouge_scorer",
)
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Read once, when torch and numpy are imported: processes that differ in them share nothing."""
WAIT_SECONDS = 20
"""For the process to be there, imports not included."""


def own_scripts() -> None:
    """Let scripts that this process starts continue in forks of one process, which becomes a child of this one."""
    if os.environ.get(OWNER) != "off" and sys.platform == "linux":
        os.environ[OWNER] = str(os.getpid())
        ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER, prctl(2): Slurm ends and measures what is below it


def continue_in_fork(modules: Sequence[str] = MODULES) -> None:
    """Run this script in a fork of the process that has imported `modules`, and exit as it does.

    Returns where the script must run by itself: nobody owns it, there are GPUs, or the process cannot be had.
    """
    owner = os.environ.get(OWNER, "")
    if sys.platform != "linux" or not owner.isdecimal() or visible_gpus():
        return
    with socket.socket(socket.AF_UNIX) as connection:
        if not _connect(connection, owner, modules):
            return
        request = json.dumps({"script": sys.argv, "folder": str(Path.cwd()), "environment": dict(os.environ)}).encode()
        socket.send_fds(connection, [struct.pack("!I", len(request))], [0, 1, 2])
        connection.sendall(request)
        answers = connection.makefile("rb")
        started = answers.readline()
        if not started:
            return  # it could not import
        child = int(started)
        for number in interruption.SIGNALS:
            signal.signal(number, lambda number, frame: _signal(child, number))
        ended = answers.readline()
    status = int(ended or 1)
    if status < 0:  # killed: so is this
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def _connect(connection: socket.socket, owner: str, modules: Sequence[str]) -> bool:
    """Connect to the process of this owner, which is started if need be; whether that worked."""
    alike = [sys.executable, *map(os.environ.get, ("PYTHONPATH", *THREADS)), *modules]
    name = f"retrotune-{os.getuid()}-{owner}-{hashlib.sha256(json.dumps(alike).encode()).hexdigest()[:16]}"
    end, process = time.monotonic() + WAIT_SECONDS, None
    while time.monotonic() < end:
        try:
            connection.connect(f"\0{name}")  # no file: it is gone with its process
            return _peer(connection) == os.getuid()
        except ConnectionRefusedError:
            if process is not None and process.poll() is not None:
                return False  # it is gone, and no other has its place
            if process is None:
                command = [sys.executable, "-m", "retrotune.runtime.warm", name, owner, *modules]
                nowhere = subprocess.DEVNULL
                process = subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere)  # noqa: S603
            time.sleep(0.01)
    return False


def _peer(connection: socket.socket) -> int:
    """User of the process at the other end."""
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(user)


def _signal(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


def serve(name: str, owner: int, modules: Sequence[str]) -> None:
    """Fork for each script that connects to `name`, until the process `owner` ends."""
    with socket.socket(socket.AF_UNIX) as listening, contextlib.suppress(ProcessLookupError):
        try:
            listening.bind(f"\0{name}")
        except OSError:
            return  # another script was faster
        listening.listen(1000)
        for number in interruption.SIGNALS:  # meant for the scripts of a process group
            signal.signal(number, signal.SIG_IGN)
        owned = os.pidfd_open(owner)
        for module in modules:
            importlib.import_module(module)
        gc.freeze()
        _Server(listening, owned).run()


class _Server:
    """Waits for scripts, for the ends of forks and of scripts, and for the end of the owner."""

    def __init__(self, listening: socket.socket, owned: int) -> None:
        self.listening = listening
        self.waiting = selectors.DefaultSelector()
        self.waiting.register(listening, selectors.EVENT_READ, self._fork)
        self.waiting.register(owned, selectors.EVENT_READ, self._stop)
        self.forks: dict[int, tuple[int, socket.socket]] = {}
        self.running = True

    def run(self) -> None:
        """Until the owner ends; scripts that still run are told to stop."""
        while self.running:
            for key, _ in self.waiting.select():
                key.data(key.fileobj)
        for fork, _ in self.forks.values():
            _signal(fork, signal.SIGTERM)

    def _stop(self, _: Any) -> None:
        self.running = False

    def _fork(self, _: Any) -> None:
        connection, _address = self.listening.accept()
        if _peer(connection) != os.getuid():
            connection.close()
            return
        try:
            size, streams, _flags, _sender = socket.recv_fds(connection, 4, 3)
            (length,) = struct.unpack("!I", size)
            request = json.loads(connection.makefile("rb").read(length))
        except (OSError, ValueError, struct.error):  # the script was killed meanwhile
            connection.close()
            return
        fork = os.fork()
        if fork == 0:
            self.waiting.close()
            self.listening.close()
            connection.close()
            _run(request, streams)
        for stream in streams:
            os.close(stream)
        connection.send(f"{fork}\n".encode())
        ended = os.pidfd_open(fork)
        self.forks[ended] = fork, connection
        self.waiting.register(ended, selectors.EVENT_READ, self._ended)
        self.waiting.register(connection, selectors.EVENT_READ, lambda _: self._abandoned(fork, connection))

    def _ended(self, descriptor: Any) -> None:
        """Tell the script how its fork ended."""
        fork, connection = self.forks.pop(descriptor)
        _, status = os.waitpid(fork, 0)
        with contextlib.suppress(OSError):
            connection.send(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        with contextlib.suppress(KeyError):
            self.waiting.unregister(connection)
        connection.close()
        self.waiting.unregister(descriptor)
        os.close(descriptor)

    def _abandoned(self, fork: int, connection: socket.socket) -> None:
        """A script was killed: nobody waits for its fork, which stops as on any signal."""
        self.waiting.unregister(connection)
        _signal(fork, signal.SIGTERM)


def _run(request: dict[str, Any], streams: Sequence[int]) -> NoReturn:
    """Be the script: its streams, folder, environment and arguments; never returns."""
    status = 1
    try:
        interruption.end_with_parent()
        for number in interruption.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        for target, stream in enumerate(streams):
            os.dup2(stream, target)
            os.close(stream)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        del os.environ[OWNER]
        sys.argv = request["script"]
        # as `ps` and `top` show it
        ctypes.CDLL(None).prctl(15, Path(sys.argv[0]).stem.rpartition(".")[2].encode())  # PR_SET_NAME
        runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
