"""A Slurm that the tests start, and Snakemake as it is typed in the repository's root."""

import fcntl
import shutil
import tempfile
from pathlib import Path

import pytest
from cluster import Cluster, Submission, missing


@pytest.fixture
def submission(repository, tmp_path) -> Submission:
    return Submission(repository, tmp_path)


@pytest.fixture(scope="module")
def cluster():
    yield from _started(accounting=False)


@pytest.fixture(scope="module")
def accounting():
    yield from _started(accounting=True)


def _started(accounting: bool):
    # one at a time on a machine, whatever processes the tests are spread over
    with open(Path(tempfile.gettempdir()) / "retrotune-slurm.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if reason := missing(accounting):
            pytest.skip(reason)
        # not below pytest's folders: a socket's path is short, and the database's user must reach it
        base = Path(tempfile.mkdtemp(prefix="slurm-"))
        try:
            with Cluster(base, accounting) as running:
                yield running
        finally:
            shutil.rmtree(base, ignore_errors=True)
