"""Shared by all tests: where the repository and the optional real data are."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

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


# A test machine may be busy: how long an example takes says nothing about the code.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")
