"""A training stage as several processes: torchrun starts them here, or on all nodes of a Slurm job.

The stage's own process (`run_stage`) trains nothing then. It writes the stage's name and arguments as JSON into a
folder beside the work folder, starts torchrun, passes signals on, and ends as the processes end, with the message of
the one that failed first. Each process (`main`) calls the same function with the same arguments; what they do together
is in `retrotune.training.distributed`.

    stage process --torchrun--> process 0, 1, ...                       one node
    stage process --srun--> torchrun on each node --> process 0, 1, ... several nodes

torchrun gets no signal: it would end its processes at once, or after a time of its own. Process 0 is told by a file to
stop, as the stage's process can reach it through the file system only, and all agree on the step after which they save.
"""

import contextlib
import dataclasses
import importlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import validate_call

from retrotune.entries import Entry
from retrotune.errors import Interrupted, RetrotuneError, TrainingError
from retrotune.runtime import interruption
from retrotune.runtime.devices import visible_gpus
from retrotune.runtime.files import read_json, write_json, write_text
from retrotune.runtime.lifecycle import refusal
from retrotune.runtime.log import logger, setup_logging
from retrotune.runtime.slurm.steps import FIRST_NODE, NODE_RANK, nodes_of_own_job, own_job, task_on_each_node

GRACE_SECONDS = 10
"""So long torchrun waits for the other processes after one has failed, before it kills them."""
ORPHAN_SECONDS = 600
"""So long processes may save when nobody waits for them any more."""
_POLL_SECONDS = 0.2
_PORTS = (20_000, 12_000)
"""First port, and number of ports, below those that systems give away by themselves."""


@dataclass(frozen=True)
class Launch:
    """How many processes train together: `processes` on each of `nodes`; `sharded`: they share one model's weights."""

    nodes: int = 1
    processes: int = 1
    sharded: bool = False

    @classmethod
    def of(cls, resources: Mapping[str, Any]) -> "Launch":
        """From a job's resources as Snakemake has them.

        Where the job is none of several Slurm nodes, all processes run here, but no more than there are GPUs for those
        that want one each.
        """
        nodes, processes = int(resources.get("nodes") or 1), int(resources.get("processes") or 1)
        sharded = bool(resources.get("sharded"))
        if nodes > 1 and nodes_of_own_job() < nodes:
            nodes, processes = 1, nodes * processes
        if nodes == 1 and resources.get("one_per_device"):
            processes = max(1, min(processes, visible_gpus()))
        return cls(nodes, processes, sharded)

    @property
    def count(self) -> int:
        """Processes in all."""
        return self.nodes * self.processes


def run_stage(stage: str, launch: Launch, work_dir: str | Path, threads: int, **arguments: Any) -> None:
    """Call the function `stage` (`package.module:function`), in this process or, as `launch` says, in several.

    It gets `arguments`, `work_dir`, `sharded`, and `threads`, the CPU threads of a process: of those given here each
    of a node's processes has its share.

    Raises what the function raises; of several processes a `TrainingError` with the message of the one that failed, or
    `Interrupted` if a signal stopped them.
    """
    threads = max(1, threads // launch.processes)
    arguments |= {"work_dir": work_dir, "threads": threads, "sharded": launch.sharded}
    if launch.count == 1:
        _function(stage)(**arguments)
        return
    folder = Path(f"{work_dir}-processes")
    shutil.rmtree(folder, ignore_errors=True)
    write_json(folder / "stage.json", {"stage": stage, "arguments": plain(arguments), "parent": os.getpid()})
    where = f"on each of {launch.nodes} nodes" if launch.nodes > 1 else "on this node"
    logger.info("%d processes %s, %d threads each", launch.processes, where, threads)
    with interruption.deferred():
        status = _watch(_start(launch, folder, threads), folder)
    _judge(status, folder, launch.count)
    shutil.rmtree(folder)


def plain(value: Any) -> Any:
    """A stage's argument as JSON has it; pydantic makes what the function wants of it again."""
    if isinstance(value, Entry):
        return value.given()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def _function(stage: str) -> Any:
    module, _, name = stage.partition(":")
    return getattr(importlib.import_module(module), name)


# The stage's process


def _start(launch: Launch, folder: Path, threads: int) -> subprocess.Popen[bytes]:
    """Start torchrun, here or with srun on each node of the job."""
    # torch 2.11 does not know the second one: it waits for 30 seconds.
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(GRACE_SECONDS),
    }
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    torchrun += [f"--nnodes={launch.nodes}", f"--nproc-per-node={launch.processes}", "--max-restarts=0"]
    torchrun.append("--signals-to-handle=SIGQUIT")
    work = ["-m", "retrotune.runtime.launching", str(folder.absolute())]
    port = _free_port(int(own_job() or os.getpid()))
    srun: list[str] = []
    place = "--master-addr=127.0.0.1"
    if launch.nodes > 1:
        srun = task_on_each_node(launch.nodes, threads * launch.processes)
        place = f"--node-rank={NODE_RANK} --master-addr={FIRST_NODE}"
    command = f"{shlex.join(torchrun)} {place} {shlex.join([f'--master-port={port}', *work])}"
    # Ignored signals stay ignored by what a shell executes; the processes themselves listen again.
    shell = ["sh", "-c", f"trap '' TERM INT USR1; exec {command}"]
    with _ignored(interruption.SIGNALS if srun else ()):
        return subprocess.Popen([*srun, *shell], env=environment, stdin=subprocess.DEVNULL)  # noqa: S603


@contextlib.contextmanager
def _ignored(signals: tuple[signal.Signals, ...]) -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(process: subprocess.Popen[bytes], folder: Path) -> int:
    """Wait for the processes; a signal that arrives meanwhile is passed on to them. Their exit status."""
    told = False
    while (status := process.poll()) is None:
        if interruption.requested() and not told:
            write_text(folder / "stop", interruption.requested_by() or "SIGTERM")
            told = True
        time.sleep(_POLL_SECONDS)
    return status


def _judge(status: int, folder: Path, count: int) -> None:
    """Raise what the processes together ended with, unless they finished."""
    if status == 0:
        return
    ends = {rank: _read_end(folder / f"{rank}.json") for rank in range(count)}
    told = {rank: end for rank, end in ends.items() if end is not None}

    def first(state: str) -> dict[str, Any] | None:
        found = [end | {"rank": rank} for rank, end in told.items() if end["state"] == state]
        return min(found, key=lambda end: (not end["together"], end["time"], end["rank"]), default=None)

    if error := first("error"):
        raise TrainingError(error["message"])
    silent = [str(rank) for rank, end in ends.items() if end is None]
    stopped = first("stopped")
    if interruption.requested() and stopped is None:
        interruption.stop("the processes were killed before they could save; the last checkpoint is kept")
    if failed := first("failed"):
        log = f" (log: {folder / str(failed['rank'])}.log)" if failed["rank"] else ""
        raise TrainingError(f"process {failed['rank']} of {count} failed: {failed['message']}{log}")
    # Where all have saved, one may have been ended by the end of another before it could say so.
    if stopped and (interruption.requested() or stopped["together"] or not silent):
        raise Interrupted(stopped["message"])
    raise TrainingError(
        f"of {count} processes {', '.join(silent) or 'some'} ended without a word (exit status {status}): killed by "
        "hand or by the system for want of memory, or never started; run again to go on from the last checkpoint"
    )


def _read_end(path: Path) -> dict[str, Any] | None:
    try:
        end: dict[str, Any] = read_json(path)
    except RetrotuneError:
        return None
    return end


def _free_port(number: int) -> int:
    """A free port of this computer, the same for a job each time if it is free."""
    first, many = _PORTS
    for offset in range(many):
        port = first + (number + offset) % many
        with socket.socket() as one:
            try:
                one.bind(("", port))
            except OSError:
                continue
            return port
    raise TrainingError(f"no free port from {first} to {first + many - 1} for the processes to meet")


# A process that torchrun started


def main(folder: Path) -> None:
    """Call the stage's function as one of several processes, and leave how it ended in `{rank}.json`."""
    interruption.listen()
    interruption.end_with_parent()
    rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    if rank:
        # One log is the stage's; the others' are read when they fail.
        with open(folder / f"{rank}.log", "w", encoding="utf-8", buffering=1) as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
    setup_logging()
    state, message, together = "", "", False
    try:
        _take_gpu(local)
        asked = read_json(folder / "stage.json")
        if rank == 0:
            threading.Thread(target=_listen_to_parent, args=(folder, asked["parent"]), daemon=True).start()
        validate_call(_function(asked["stage"]))(**asked["arguments"])
    except BaseException as error:
        _ignore_signals()
        state, message, together = _how_it_ended(error)
    _ignore_signals()
    if state:
        with contextlib.suppress(OSError):
            end = {"state": state, "message": message, "together": together, "time": time.time()}
            write_json(folder / f"{rank}.json", end)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(interruption.STATUS if state == "stopped" else 1 if state else 0)


def _take_gpu(local: int) -> None:
    """Leave this process one GPU in sight, its own: everything above this file takes the first that it sees."""
    gpus = visible_gpus()
    if not gpus:
        return
    if local >= gpus:
        raise TrainingError(
            f"{os.environ['LOCAL_WORLD_SIZE']} processes on this node want a GPU each, and {gpus} can be seen here: "
            "ask for as many GPUs, fewer processes, or hide them to use the processor (CUDA_VISIBLE_DEVICES=)"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
    os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[local]


def _ignore_signals() -> None:
    """Those that torchrun sends to all others when one process has ended: each must have its say."""
    for number in interruption.SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _how_it_ended(error: BaseException) -> tuple[str, str, bool]:
    """State, message, and whether all processes stopped together, of a process that an error has ended."""
    if isinstance(error, Interrupted):
        return "stopped", str(error), error.together
    if isinstance(error, RetrotuneError):
        return "error", str(error), False
    traceback.print_exception(error)
    if refused := refusal(error):
        return "error", f"{refused}; mend that and run again", False
    lost = interruption.requested() or _lost(error)  # torchrun ends the others when one has failed
    return "lost" if lost else "failed", f"{type(error).__name__}: {error}", False


def _lost(error: BaseException) -> bool:
    """Whether an error only says that another process is gone."""
    dist = sys.modules.get("torch.distributed")
    known = (dist.DistError,) if dist is not None else ()
    return isinstance(error, known) or any(word in str(error).lower() for word in ("gloo", "nccl", "closed by peer"))


def _listen_to_parent(folder: Path, parent: int) -> None:
    """Signal the own process when the stage's process is told to stop, or is gone."""
    while Path(f"/proc/{parent}").exists() or not Path("/proc").exists():
        if (folder / "stop").exists():
            os.kill(os.getpid(), signal.Signals[(folder / "stop").read_text(encoding="utf-8").strip()])
            return
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
