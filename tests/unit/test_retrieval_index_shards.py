"""Shards of an index: kept, resumed, rebuilt, merged, and built by two processes at once."""

import logging
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from index_cases import build, clustered, write_embeddings

from retrotune.errors import RetrievalError
from retrotune.retrieval.search import shards
from retrotune.retrieval.search.index import open_index
from retrotune.retrieval.vectors.embeddings import Embeddings
from retrotune.runtime.files import lock, read_json, sha256, write_json
from retrotune.runtime.log import logger
from retrotune.study.config import IndexEntry

ENTRY = IndexEntry(factory="IVF4,Flat", nprobe=4, shard_vectors=90)
"""With all lists searched an exact index, in shards of 75."""


@pytest.fixture
def embeddings(tmp_path: Path) -> Path:
    return write_embeddings(tmp_path, np.array_split(clustered(300, 8), 4))


def files(folder: Path) -> dict[str, tuple[int, str]]:
    """Time of change and checksum of all index files."""
    return {path.name: (path.stat().st_mtime_ns, sha256(path)) for path in sorted((folder / "i").glob("*.faiss"))}


def test_shards_are_merged_to_the_exact_result(tmp_path: Path, embeddings: Path) -> None:
    build(embeddings, ENTRY, tmp_path / "i.json")
    vectors = Embeddings(embeddings)
    index = open_index(tmp_path / "i.json", vectors)
    assert [shard.start for shard in index.shards] == [0, 75, 150, 225]
    queries = np.random.default_rng(3).normal(size=(20, 8)).astype(np.float32)
    scores, rows = index.search(queries, 9)
    exact = queries @ vectors.take(np.arange(300)).T
    np.testing.assert_array_equal(rows, np.argsort(-exact, axis=1, kind="stable")[:, :9])
    np.testing.assert_allclose(scores, -np.sort(-exact, axis=1)[:, :9], rtol=1e-5)


def test_twins_in_different_shards_come_by_row(tmp_path: Path) -> None:
    manifest = write_embeddings(tmp_path, [np.tile(np.eye(4), (25, 1))])
    build(manifest, IndexEntry(factory="IVF2,Flat", nprobe=2, shard_vectors=30), tmp_path / "i.json")
    _, rows = open_index(tmp_path / "i.json", Embeddings(manifest)).search(np.eye(4), 25)
    np.testing.assert_array_equal(rows, [np.arange(first, 100, 4) for first in range(4)])


def test_what_lies_in_lists_that_are_not_searched_leaves_places_empty(tmp_path: Path, embeddings: Path) -> None:
    build(embeddings, IndexEntry(factory="IVF4,Flat", nprobe=1, shard_vectors=150), tmp_path / "i.json")
    scores, rows = open_index(tmp_path / "i.json", Embeddings(embeddings)).search(clustered(300, 8)[:20], 140)
    found = (rows >= 0).sum(axis=1)
    assert 0 < found.min() < 140
    for number, count in enumerate(found):
        assert (rows[number, count:] == -1).all()
        assert np.isneginf(scores[number, count:]).all()
        assert np.isfinite(scores[number, :count]).all()


def test_only_missing_and_damaged_shards_are_made(
    tmp_path: Path, embeddings: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.WARNING, logger="retrotune")
    build(embeddings, ENTRY, tmp_path / "i.json")
    whole, index = files(tmp_path), (tmp_path / "i.json").read_text()
    assert list(whole) == ["00000.faiss", "00001.faiss", "00002.faiss", "00003.faiss", "trained.faiss"]

    data = bytearray((tmp_path / "i/00001.faiss").read_bytes())
    data[-3] ^= 1
    (tmp_path / "i/00001.faiss").write_bytes(data)
    (tmp_path / "i/00002.faiss").unlink()
    (tmp_path / "i/00003.json").write_text('{"sha256": "')
    (tmp_path / "i.json").unlink()
    build(embeddings, ENTRY, tmp_path / "i.json")
    again = files(tmp_path)
    assert {name for name in whole if whole[name] != again[name]} == {"00001.faiss", "00002.faiss", "00003.faiss"}
    assert (tmp_path / "i.json").read_text() == index, "an index made again from the same files is the same"
    assert "00001.faiss: damaged (checksum differs); making it again" in caplog.text

    build(embeddings, ENTRY.model_copy(update={"nprobe": 2}), tmp_path / "i.json")
    assert files(tmp_path) == again, "how an index is searched does not change its files"
    build(embeddings, ENTRY.model_copy(update={"shard_vectors": 150}), tmp_path / "i.json")
    assert list(files(tmp_path)) == ["00000.faiss", "00001.faiss", "trained.faiss"]
    assert "made from other vectors or with other settings" in caplog.text
    assert files(tmp_path)["trained.faiss"] == again["trained.faiss"]


def test_an_interrupted_build_goes_on(tmp_path: Path, embeddings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill = shards._fill

    def interrupted(vectors: Embeddings, trained: Path, start: int, stop: int) -> object:
        if start == 150:
            raise KeyboardInterrupt
        return fill(vectors, trained, start, stop)

    monkeypatch.setattr(shards, "_fill", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(embeddings, ENTRY, tmp_path / "i.json")
    assert not (tmp_path / "i.json").exists()
    before = files(tmp_path)
    assert list(before) == ["00000.faiss", "00001.faiss", "trained.faiss"]
    monkeypatch.undo()
    build(embeddings, ENTRY, tmp_path / "i.json")
    after = files(tmp_path)
    assert {name: after[name] for name in before} == before
    assert len(after) == 5


def test_damaged_shards_are_refused(tmp_path: Path, embeddings: Path) -> None:
    index, shard = tmp_path / "i.json", tmp_path / "i/00001.faiss"
    build(embeddings, ENTRY, index)
    vectors, whole = Embeddings(embeddings), shard.read_bytes()
    shard.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    with pytest.raises(
        RetrievalError, match=r"00001.faiss: damaged .checksum differs.; delete .*i.json and run build_index"
    ):
        open_index(index, vectors)
    content = read_json(index)
    shard.write_bytes(whole[:100])
    content["shards"][1]["sha256"] = sha256(shard)
    write_json(index, content)
    with pytest.raises(RetrievalError, match=r"00001.faiss: FAISS cannot read it"):
        open_index(index, vectors)
    shard.write_bytes((tmp_path / "i/trained.faiss").read_bytes())
    content["shards"][1]["sha256"] = sha256(shard)
    write_json(index, content)
    with pytest.raises(RetrievalError, match=r"00001.faiss: holds 0 vectors of width 8, expected 75 of 8"):
        open_index(index, vectors)
    shard.unlink()
    with pytest.raises(RetrievalError, match=r"00001.faiss: no such shard.*run build_index"):
        open_index(index, vectors)
    index.unlink()
    with pytest.raises(RetrievalError, match=r"no such file.*run build_index"):
        open_index(index, vectors)


BUILD = """
import sys
from retrotune.study.config import IndexEntry
from retrotune.runtime.log import setup_logging
from retrotune.retrieval.search.index import build_index
from retrotune.study.stages import BuildIndexParams
setup_logging()
params = BuildIndexParams(index=IndexEntry(factory="IVF4,Flat", nprobe=4, shard_vectors=90))
print("ready", flush=True)
sys.stdin.readline()
build_index(params, sys.argv[1], sys.argv[2])
"""


def test_two_processes_build_the_same_index(tmp_path: Path, embeddings: Path) -> None:
    command = [sys.executable, "-c", BUILD, str(embeddings), str(tmp_path / "i.json")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    workers = [subprocess.Popen(command, text=True, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    messages = []
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        messages.append(worker.communicate(timeout=60)[1])
        assert worker.returncode == 0, messages
    assert "".join(messages).count("learns from 300 vectors") == 1, "what one makes the other waits for"
    index = open_index(tmp_path / "i.json", Embeddings(embeddings))
    assert index.search(np.eye(8), 3)[1].shape == (8, 3)
    assert not list((tmp_path / "i").glob("*.tmp"))


HOLD = """
import sys, time
from retrotune.runtime.files import lock
with lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_is_lost_with_its_process(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "x")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait()
    began = time.monotonic()
    with lock(tmp_path / "x"):
        assert time.monotonic() - began < 10
