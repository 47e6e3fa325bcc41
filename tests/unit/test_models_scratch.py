"""Copies of base models on a node's own disk."""

import os
import shutil
import threading
import time
from collections import namedtuple

import pytest
from methods_cases import tiny_model

from retrotune.models import scratch
from retrotune.models.fetch import write_manifest
from retrotune.models.loading import load_model
from retrotune.runtime.files import sha256, write_json

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """The node's disk; its copies."""
    folder = tmp_path / "disk"
    monkeypatch.setenv(scratch.VARIABLE, str(folder))

    def copies():
        return sorted(path for path in folder.glob("*/*") if path.is_dir())

    return copies


@pytest.fixture
def model(tmp_path):
    """Makes a model folder: model(name, content)."""

    def make(name="model", content=b"weights"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "model.safetensors").write_bytes(content)
        (folder / "config.json").write_text("{}")
        digest = sha256(folder / "model.safetensors")
        write_json(folder / "manifest.json", {"weights_sha256": {"model.safetensors": digest}})
        return folder

    return make


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_without_a_disk_the_folder_itself_is_read(model, monkeypatch):
    monkeypatch.delenv(scratch.VARIABLE, raising=False)
    with scratch.nearby(model()) as path:
        assert path == model()


def test_a_folder_without_checksums_is_read_where_it_is(model, disk):
    folder = model()
    (folder / "manifest.json").write_text("{}")
    with scratch.nearby(folder) as path:
        assert path == folder
    assert disk() == []


def test_a_copy_is_made_once(model, disk, monkeypatch):
    folder = model()
    with scratch.nearby(folder) as path:
        assert disk() == [path]
        assert contents(path) == contents(folder)
    monkeypatch.setattr(scratch, "_make", lambda *_: pytest.fail("copied again"))
    with scratch.nearby(folder) as again:
        assert again == path


def test_jobs_that_start_together_share_one_copy(model, disk, monkeypatch):
    folder, made, seen, make = model(), [], [], scratch._make

    def slow(*arguments):
        made.append(arguments)
        time.sleep(0.1)
        make(*arguments)

    def job():
        with scratch.nearby(folder) as path:
            seen.append(contents(path))

    monkeypatch.setattr(scratch, "_make", slow)
    jobs = [threading.Thread(target=job) for _ in range(5)]
    for one in jobs:
        one.start()
    for one in jobs:
        one.join()
    assert len(made) == 1
    assert seen == [contents(folder)] * 5


def test_a_model_made_anew_is_another_copy(model, disk):
    with scratch.nearby(model()) as first:
        pass
    with scratch.nearby(model(content=b"others!")) as second:
        assert second != first
        assert (second / "model.safetensors").read_bytes() == b"others!"


def test_a_half_copy_is_made_again(model, disk):
    folder = model()
    with scratch.nearby(folder) as path:
        pass
    (path / "model.safetensors").write_bytes(b"wei")
    with scratch.nearby(folder) as again:
        assert contents(again) == contents(folder)


def test_a_copy_that_differs_from_the_manifest_is_not_used(model, disk, caplog):
    folder = model()
    (folder / "model.safetensors").write_bytes(b"WEIGHTS")
    with scratch.nearby(folder) as path:
        assert path == folder
    assert disk() == []
    assert "is not the manifest's" in caplog.text


def test_a_disk_that_cannot_be_written(model, disk, tmp_path, caplog):
    (tmp_path / "disk").write_text("a file")
    folder = model()
    with scratch.nearby(folder) as path:
        assert path == folder
    assert f"{scratch.VARIABLE}=" in caplog.text


def test_a_full_disk_loses_the_copies_that_nobody_holds(model, disk, monkeypatch, caplog):
    with scratch.nearby(model("held")) as held:
        with scratch.nearby(model("unused", b"unused")) as unused:
            pass
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1000, 0, 0 if unused.exists() else 1000))
        with scratch.nearby(model("new", b"new")) as new:
            assert disk() == sorted([held, new])
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1000, 1000, 0))
        newer = model("newer", b"newer")
        with scratch.nearby(newer) as path:
            assert path == newer
        assert disk() == [held]
        assert "0 are free" in caplog.text


def test_copies_that_were_not_used_for_long_are_removed(model, disk):
    with scratch.nearby(model("old", b"old")) as old:
        pass
    past = time.time() - (scratch.UNUSED_DAYS + 1) * 86400
    os.utime(f"{old}.lock", (past, past))
    with scratch.nearby(model("new", b"new")) as new:
        assert disk() == [new]


def test_a_model_loaded_from_a_copy_is_called_by_its_folder(tmp_path, disk):
    folder = tmp_path / "model"
    tiny_model("gpt").save_pretrained(folder)
    write_manifest(folder, {})
    model = load_model(folder)
    assert len(disk()) == 1
    assert model.name_or_path == model.config.name_or_path == str(folder)
