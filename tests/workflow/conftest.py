"""Runs the workflow as a user does, in a folder of its own."""

import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest


class Workflow:
    """Snakemake over some configuration files, with its working directory elsewhere."""

    def __init__(self, repository: Path, folder: Path, *configfiles: Path) -> None:
        self.repository, self.folder, self.configfiles = repository, folder, configfiles
        folder.mkdir(exist_ok=True)

    def command(self, *arguments: str) -> list[str]:
        files = ["--configfile", *map(str, self.configfiles)] if self.configfiles else []
        snakefile = ["--snakefile", str(self.repository / "Snakefile"), "--directory", str(self.folder)]
        profile = ["--workflow-profile", str(self.repository / "profiles" / "default")]
        return [sys.executable, "-m", "snakemake", *files, *snakefile, *profile, "--cores", "2", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.command(*arguments), cwd=self.folder, capture_output=True, text=True, timeout=900, check=False
        )

    def plan(self, *arguments: str) -> dict[str, int]:
        """Jobs per rule of a dry run, without the target rule."""
        done = self.run(*arguments, "--dry-run", "--quiet", "rules")
        assert done.returncode == 0, done.stdout + done.stderr
        jobs = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, flags=re.MULTILINE))
        return {rule: int(count) for rule, count in jobs.items() if rule not in ("total", "all")}


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
