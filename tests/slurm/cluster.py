"""A real Slurm on one machine: a controller, three nodes, stand-in GPUs, accounting on request; and runs on it."""

import contextlib
import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

NODES = {"cpu1": 0, "gpu1": 4, "gpu2": 2}
"""GPUs of each node. Partition `cpu` is the first, which `urgent` may take from it; `gpu` is the others."""
ETC = Path("/etc/slurm")
# The executor clears SLURM_CONF before it starts a job's step, so the files must lie where Slurm looks by itself.
FILES = ("slurm.conf", "gres.conf", "cgroup.conf")

CONF = """\
ClusterName=retrotune
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={base}/munge/socket
SlurmctldPort={ctld_port}
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile={base}/slurmd-%n.pid
SlurmdSpoolDir={base}/spool-%n
StateSaveLocation={base}/state
SlurmctldLogFile={base}/slurmctld.log
SlurmdLogFile={base}/slurmd-%n.log
# neither systemd nor cgroups: a job's memory is sampled every second, and a kill for it reads FAILED
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
MinJobAge=600
Epilog={base}/epilog
KillWait=5
SlurmctldTimeout=30
SlurmdTimeout=30
# more CPUs than the machine has
SlurmdParameters=config_overrides
GresTypes=gpu
{accounting}
{nodes}
PartitionName=cpu Nodes=cpu1 Default=YES MaxTime=1-00:00:00 DefaultTime=00:10:00 State=UP
PartitionName=urgent Nodes=cpu1 PriorityTier=9 DefaultTime=00:10:00 State=UP
PartitionName=gpu Nodes=gpu1,gpu2 MaxTime=04:00:00 DefaultTime=00:10:00 State=UP
"""
EPILOG = """\
#!/bin/sh
# hides the files that are named here, one a line, when the job that made them has ended
[ -e {base}/late ] && while read -r path; do [ -e "$path" ] && mv "$path" "$path.late"; done < {base}/late
exit 0
"""
NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 Boards=1 SocketsPerBoard=1 "
    "CoresPerSocket=8 ThreadsPerCore=1 RealMemory={memory} State=UNKNOWN{gres}"
)
ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={base}/munge/socket
AccountingStorageTRES=gres/gpu
AccountingStorageEnforce=associations"""
# slurmctld does not start with AccountingStorageTRES and no slurmdbd
NO_ACCOUNTING = "AccountingStorageType=accounting_storage/none"
DBD = """\
AuthType=auth/munge
AuthInfo=socket={base}/munge/socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
PidFile={base}/slurmdbd.pid
LogFile={base}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={sql_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
"""


def missing(accounting: bool = False) -> str | None:
    """Why a cluster cannot be started here; None where it can."""
    commands = ["munged", "slurmctld", "slurmd", "sbatch", *(["slurmdbd", "mariadbd"] if accounting else [])]
    absent = [command for command in commands if _which(command) is None]
    if absent:
        package = "slurmdbd mariadb-server" if accounting else "slurm-wlm munge"
        return f"no {', '.join(absent)}: apt-get install {package}"
    if os.geteuid() != 0:
        return "a Slurm of several nodes on one machine needs root"
    with contextlib.suppress(subprocess.TimeoutExpired):
        if "is UP" in _run("scontrol", "ping", check=False, timeout=10):
            return "this machine belongs to a running Slurm cluster"
    return None


def _which(command: str) -> str | None:
    return shutil.which(command, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _run(*command: str, check: bool = True, timeout: float = 60, **options) -> str:
    done = subprocess.run(
        [_which(command[0]) or command[0], *command[1:]],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **options,
    )
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


def _command_lines() -> list[str]:
    """Of all processes of this machine."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_text(errors="replace"))
    return lines


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Cluster:
    """Daemons in a folder of their own; a context manager, which puts /etc/slurm back as it was."""

    def __init__(self, base: Path, accounting: bool = False) -> None:
        self.base, self.accounting = base, accounting
        self.host = socket.gethostname().split(".")[0]
        self.daemons: dict[str, subprocess.Popen] = {}
        self.ending = threading.Event()
        self.ports = dict(zip(("ctld", "dbd", "sql", *NODES), _free_ports(3 + len(NODES)), strict=True))

    def __enter__(self) -> "Cluster":
        try:
            self._save_etc()
            self._start_munge()
            self._write_conf()
            if self.accounting:
                self._start_accounting()
            self._daemon("slurmctld", "-D")
            self._wait("slurmctld", lambda: "is UP" in self.run("scontrol", "ping", check=False))
            threading.Thread(target=self._keep_controller, daemon=True).start()
            for node in NODES:
                (self.base / f"spool-{node}").mkdir(exist_ok=True)
                # with mounts of its own, for `unseen`
                self._daemon("unshare", "--mount", _which("slurmd"), "-D", "-N", node, name=node)
            self._wait("nodes", lambda: self.states() == dict.fromkeys(NODES, "idle"))
        except BaseException:
            self.__exit__()
            raise
        return self

    def _keep_controller(self) -> None:
        """Start the controller again when it is gone: that of Slurm 22.05 was seen to crash when a node went down."""
        while not self.ending.wait(0.5):
            if self.daemons["slurmctld"].poll() is not None:
                self._daemon("slurmctld", "-D")

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        if "slurmctld" in self.daemons:
            _run("scancel", "--user", "root", check=False)
        # nodes first, the database last: each says goodbye to the one before
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self.daemons.clear()
        self._restore_etc()
        # what a node runs when it is taken down outlives it
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("SLURM_CLUSTER_NAME") == "retrotune":
                    process.kill()

    def run(self, *command: str, check: bool = True) -> str:
        """A Slurm command's output."""
        return _run(*command, check=check)

    def states(self) -> dict[str, str]:
        """State of each node, as sinfo writes it."""
        lines = self.run("sinfo", "-h", "-N", "-o", "%N %t", check=False).split("\n")
        return dict(line.split() for line in lines if line)

    @contextlib.contextmanager
    def unseen(self, node: str, folder: Path) -> Iterator[None]:
        """A node that does not share this folder: it sees another one there, which is empty."""
        inside = ("nsenter", f"--target={self.daemons[node].pid}", "--mount")
        self.run(*inside, "mount", "-t", "tmpfs", "tmpfs", str(folder.parent))
        try:
            yield
        finally:
            self.run(*inside, "umount", "--lazy", str(folder.parent))

    def hide(self, *paths: Path) -> None:
        """Let files be seen only after `show`, however soon a job writes them: other nodes' file systems lag."""
        (self.base / "late").write_text("".join(f"{path}\n" for path in paths))

    def show(self) -> None:
        """Let the hidden files be seen, and hide nothing from now on."""
        for path in (self.base / "late").read_text().splitlines():
            Path(f"{path}.late").rename(path)
        (self.base / "late").unlink()

    def take_down(self, node: str, job: str) -> None:
        """Take a node down with a job, and let it come back, which it does by itself or by an order."""
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
        time.sleep(1)
        # refused until the node has let go of its job
        limit = time.monotonic() + 30
        while self.states()[node].startswith("down"):
            assert time.monotonic() < limit, self.run("scontrol", "show", "node", node)
            self.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
            time.sleep(0.5)
        self.start_now(job)

    def start_now(self, job: str) -> None:
        """Start a job that was requeued; Slurm would wait two minutes."""
        limit = time.monotonic() + 120
        # what the two minutes are for: a node that still knows the job refuses it, and is drained
        while any(line.startswith(f"slurmstepd: [{job}.") for line in _command_lines()):
            assert time.monotonic() < limit, f"the earlier run of job {job} does not end"
            time.sleep(0.2)
        while not (state := self.run("squeue", "-h", "-j", job, "-o", "%T %r").strip()).startswith("RUNNING"):
            said = ("scontrol", "show", "job", job), ("sinfo", "-N", "-l")
            assert time.monotonic() < limit, "\n".join(self.run(*command) for command in said)
            if "BeginTime" in state:
                self.run("scontrol", "update", f"jobid={job}", "StartTime=now", check=False)
            if (
                "held" in state.replace("_", " ").split()
            ):  # refused all the same: the node must be told that it may go on
                for node in (node for node, said in self.states().items() if said.startswith("drain")):
                    self.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
                self.run("scontrol", "release", job, check=False)
            time.sleep(0.5)

    def _save_etc(self) -> None:
        ETC.mkdir(exist_ok=True)
        for name in (*FILES, "slurmdbd.conf"):
            if (ETC / name).exists():
                (ETC / name).rename(ETC / f"{name}.before-test")

    def _restore_etc(self) -> None:
        for name in (*FILES, "slurmdbd.conf"):
            (ETC / name).unlink(missing_ok=True)
            if (ETC / f"{name}.before-test").exists():
                (ETC / f"{name}.before-test").rename(ETC / name)

    def _start_munge(self) -> None:
        """With a socket and a key of its own, beside a munged that may already run."""
        folder = self.base / "munge"
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "key").write_bytes(os.urandom(128))
        (folder / "key").chmod(0o600)
        files = [
            f"--{what}={folder / what.split('-')[0]}" for what in ("key-file", "pid-file", "log-file", "seed-file")
        ]
        self._daemon("munged", "--foreground", "--force", f"--socket={folder / 'socket'}", *files)
        self._wait("munged", (folder / "socket").exists)

    def _write_conf(self) -> None:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 9 // 10 // 2**20
        nodes = []
        for name, gpus in NODES.items():
            gres = f" Gres=gpu:{gpus}" if gpus else ""
            nodes.append(NODE.format(name=name, host=self.host, port=self.ports[name], memory=memory, gres=gres))
        for index in range(max(NODES.values())):
            # the null device: CUDA_VISIBLE_DEVICES is set for character devices only
            os.mknod(self.base / f"gpu{index}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        accounting = ACCOUNTING.format(base=self.base, port=self.ports["dbd"]) if self.accounting else NO_ACCOUNTING
        conf = CONF.format(
            host=self.host,
            base=self.base,
            ctld_port=self.ports["ctld"],
            accounting=accounting,
            nodes="\n".join(nodes),
        )
        gres = [f"NodeName={name} Name=gpu File={self.base}/gpu[0-{gpus - 1}]" for name, gpus in NODES.items() if gpus]
        (self.base / "state").mkdir(exist_ok=True)
        (self.base / "epilog").write_text(EPILOG.format(base=self.base))
        (self.base / "epilog").chmod(0o755)
        (ETC / "slurm.conf").write_text(conf)
        (ETC / "gres.conf").write_text("\n".join(["AutoDetect=off", *gres]) + "\n")

    def _start_accounting(self) -> None:
        data, log = self.base / "mysql", self.base / "mysql-install.log"
        user = pwd.getpwnam("mysql")
        data.mkdir()
        os.chown(data, user.pw_uid, user.pw_gid)
        self.base.chmod(0o755)
        log.write_text(_run("mariadb-install-db", "--user=mysql", f"--datadir={data}", "--skip-test-db"))
        where = [f"--datadir={data}", f"--socket={data}/socket", f"--port={self.ports['sql']}"]
        self._daemon("mariadbd", "--no-defaults", "--user=mysql", "--bind-address=127.0.0.1", *where)
        client = ("mariadb", "--no-defaults", "-S", f"{data}/socket", "-e")
        self._wait("mariadbd", lambda: "1" in _run(*client, "select 1", check=False))
        for statement in (
            "create database slurm_acct",
            "create user 'slurm'@'127.0.0.1' identified by 'slurm'",
            "grant all on slurm_acct.* to 'slurm'@'127.0.0.1'",
        ):
            _run(*client, statement)
        conf = ETC / "slurmdbd.conf"
        conf.write_text(DBD.format(base=self.base, host=self.host, port=self.ports["dbd"], sql_port=self.ports["sql"]))
        conf.chmod(0o600)
        self._daemon("slurmdbd", "-D")
        self._wait("slurmdbd", lambda: "Cluster" in _run("sacctmgr", "list", "cluster", check=False))
        _run("sacctmgr", "-i", "add", "cluster", "retrotune", check=False)
        _run("sacctmgr", "-i", "add", "account", "science", check=False)
        _run("sacctmgr", "-i", "add", "user", "root", "account=science", check=False)

    def _daemon(self, command: str, *arguments: str, name: str | None = None) -> None:
        with open(self.base / f"{name or command}.out", "w") as log:
            self.daemons[name or command] = subprocess.Popen(
                [_which(command), *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def _wait(self, what: str, ready, seconds: float = 30) -> None:
        limit = time.monotonic() + seconds
        while not ready():
            gone = [name for name, daemon in self.daemons.items() if daemon.poll() is not None]
            logs = "\n".join(path.read_text(errors="replace")[-1000:] for path in self.base.glob("*.log"))
            assert not gone, f"{gone} stopped: {logs}"
            assert time.monotonic() < limit, f"{what}: not ready after {seconds} s: {logs}"
            time.sleep(0.1)


class Submission:
    """`snakemake --profile slurm`, with its working directory elsewhere."""

    # jobs of seconds: the profile's 20 seconds between checks are for jobs of minutes
    PACE = ("--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "10")

    def __init__(self, repository: Path, folder: Path) -> None:
        self.repository, self.folder = repository, folder

    def start(self, *arguments: str) -> subprocess.Popen:
        """Snakemake at work; what it says is in `said`."""
        snakemake = [sys.executable, "-m", "snakemake", "--profile", "slurm", "--directory", str(self.folder)]
        with open(self.folder / "said.log", "w") as log:
            return subprocess.Popen(
                [*snakemake, *self.PACE, "--slurm-logdir", str(self.folder / "logs/slurm"), *arguments],
                cwd=self.repository,
                stdout=log,
                stderr=log,
            )

    @property
    def said(self) -> str:
        """Output of the last `start`."""
        return (self.folder / "said.log").read_text()

    def run(self, *arguments: str, timeout: float = 300) -> tuple[int, str]:
        """Exit status and all output."""
        process = self.start(*arguments)
        return self.end(process, timeout), self.said

    def end(self, process: subprocess.Popen, timeout: float = 300) -> int:
        """Exit status of what was started; it is killed when it takes longer."""
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not at its end after {timeout} s: {self.said}") from None
        finally:
            process.kill()

    def wait_until(self, what: Callable[[], Any], process: subprocess.Popen | None = None, seconds: float = 180) -> Any:
        """The first true value of `what()`, while the process is at work."""
        limit = time.monotonic() + seconds
        while not (value := what()):
            assert process is None or process.poll() is None, self.said
            assert time.monotonic() < limit, f"nothing after {seconds} s: {self.said if process else ''}"
            time.sleep(0.02)
        return value

    def wait_for(self, name: str, process: subprocess.Popen | None = None, seconds: float = 180) -> Path:
        """A file that a job makes."""
        path = self.folder / name
        self.wait_until(path.exists, process, seconds)
        return path
