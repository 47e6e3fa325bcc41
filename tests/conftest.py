"""Shared by all tests: where the repository and the optional real data are."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from retrotune.runtime.log import logger

# Several test processes share the cores: with more threads each, tiny models spend their time waiting for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and reference outputs that are not part of the repository."""
    folder = Path(os.environ.get("RETROTUNE_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: real data and reference outputs are not part of the repository")
    return folder


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Commands set the package's log up for their process; the next test has a terminal of its own."""
    handlers, propagate, level = logger.handlers[:], logger.propagate, logger.level
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


# A test machine may be busy: how long an example takes says nothing about the code.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")
