"""Studies that the tests of the workflow run."""

import functools
from pathlib import Path

import pytest
from study_runs import Workflow


@pytest.fixture
def workflow(repository):
    """Makes a `Workflow` of this repository: workflow(folder, *configfiles)."""
    return functools.partial(Workflow, repository)


@pytest.fixture
def paper(repository, tmp_path) -> Workflow:
    return Workflow(repository, tmp_path, repository / "config" / "paper.yaml")


@pytest.fixture(scope="module")
def smallest(repository, tmp_path_factory) -> Workflow:
    here = Path(__file__).parent
    return Workflow(
        repository,
        tmp_path_factory.mktemp("smallest"),
        repository / "config" / "config.yaml",
        here / "smallest.yaml",
    )
