"""Blocks of neighbor caches and of vectors: interrupted, broken, outdated, and wanted by two processes at once."""

import dataclasses
import functools
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dataset_cases import write_split
from hypothesis import given
from hypothesis import strategies as st
from neighbor_cases import cache_questions, cache_texts
from test_retrieval_vectors import make_bert

from retrotune.data.datasets.base import Example
from retrotune.errors import RetrievalError
from retrotune.retrieval.caches import results
from retrotune.retrieval.caches.questions import load_neighbors
from retrotune.retrieval.caches.results import Keys, block_name, read_block
from retrotune.retrieval.caches.texts import load_pretraining_neighbors
from retrotune.retrieval.passages import PassageTable
from retrotune.retrieval.search import sparse
from retrotune.retrieval.vectors.embeddings import embed_passages
from retrotune.runtime.files import read_json, read_parquet, write_parquet
from retrotune.runtime.log import logger
from retrotune.study.config import CorpusEntry, RetrieverEntry
from retrotune.study.stages import EmbedParams

BM25 = RetrieverEntry(kind="bm25")
ANIMALS = ("fox", "hen", "cow", "ant", "owl", "bee", "elk")
TEXTS = [f"the {one} met a {two} near the {three}" for one in ANIMALS for two in ANIMALS[:3] for three in ANIMALS[2:4]]


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Passages of documents of three, questions, and the passages' text as a corpus for pretraining."""
    rows = [
        {"passage_id": f"p{row}", "doc_id": f"text.txt#{row // 3}", "title": "T", "text": text}
        for row, text in enumerate(TEXTS)
    ]
    write_parquet(tmp_path / "passages.parquet", pd.DataFrame(rows))
    documents = [" ".join(TEXTS[row : row + 3]) for row in range(0, len(TEXTS), 3)]
    (tmp_path / "text.txt").write_text("\n\n".join(documents))
    write_split(tmp_path / "test.parquet", questions())
    return tmp_path


def questions(last: str = "bee", **changes: str) -> list[Example]:
    asked = [f"where is the {animal}" for animal in (*ANIMALS[:6], last)]
    return [Example(f"q{n}", text, ("x",), f"text.txt#{n}") for n, text in enumerate(asked)]


def of_questions(world: Path, block_texts: int = 2, name: str = "n", own: bool = False, top_k: int = 4) -> Path:
    out = world / f"{name}.parquet"
    cache_questions(world / "test.parquet", world / "passages.parquet", BM25, top_k, own, out, block_texts=block_texts)
    return out


def of_text(world: Path, block_texts: int = 4, name: str = "n", **more: bool) -> Path:
    out = world / f"{name}.json"
    corpora = {"text": CorpusEntry(reader="text", path="text.txt", documents="paragraph")}
    cache_texts(corpora, world, world / "passages.parquet", "text", BM25, 3, out, block_texts=block_texts, **more)
    return out


def contents(out: Path) -> dict[str, bytes]:
    """Everything that makes up a cache, by name."""
    beside = [out, out.with_suffix(".manifest.json")] if out.suffix == ".parquet" else [out]
    blocks = [file for file in out.with_suffix("").iterdir() if not file.name.startswith(".")]
    return {file.name: file.read_bytes() for file in (*beside, *blocks)}


BOTH = pytest.mark.parametrize("make", [of_questions, of_text])


@BOTH
@pytest.mark.parametrize("block", [0, 1, 2])
def test_interrupted_and_resumed_is_uninterrupted(world, monkeypatch, make, block):
    make(world)
    expected = contents(out := make(world))
    for file in (out, out.with_suffix(".manifest.json"), *out.with_suffix("").iterdir()):
        file.unlink(missing_ok=True)
    search, calls = sparse.SparseSearcher.search, []

    def broken(self, encoded, k):
        calls.append(len(encoded))
        if len(calls) == block + 1:
            raise KeyboardInterrupt
        return search(self, encoded, k)

    with monkeypatch.context() as patch:
        patch.setattr(sparse.SparseSearcher, "search", broken)
        with pytest.raises(KeyboardInterrupt):
            make(world)
    assert not out.exists()
    assert len(list(out.with_suffix("").glob("*.npz"))) == block
    before = {file: file.stat().st_mtime_ns for file in out.with_suffix("").glob("*.npz")}
    make(world)
    assert contents(out) == expected
    assert all(file.stat().st_mtime_ns == time for file, time in before.items())


@BOTH
def test_an_interrupted_write_leaves_nothing_that_passes_for_a_block(world, monkeypatch, make):
    def half(stream, **arrays):
        stream.write(b"PK\x03\x04half a block")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", half)
        with pytest.raises(KeyboardInterrupt):
            make(world)
    assert [file for file in (world / "n").iterdir() if not file.name.endswith(".lock")] == []


def test_a_block_without_its_record_is_made_again(world):
    expected = contents(out := of_questions(world))
    (world / "n" / "000000000002-000000000004.json").unlink()
    assert contents(of_questions(world)) == expected == contents(out)


@BOTH
@pytest.mark.parametrize("block_texts", [1, 3, 5, 100])
def test_any_block_size_is_one_block(world, make, block_texts):
    whole, parts = make(world, 100, "whole"), make(world, block_texts, "parts")
    load = load_neighbors if make is of_questions else load_pretraining_neighbors
    assert load(whole) == load(parts)
    arrays = [
        read_block(file, read_json(file.with_suffix(".json"))) for file in sorted((world / "parts").glob("*.npz"))
    ]
    (one,) = (world / "whole").glob("*.npz")
    expected = read_block(one, read_json(one.with_suffix(".json")))
    for name in ("rows", "scores"):
        np.testing.assert_array_equal(np.concatenate([block[name] for block in arrays]), expected[name])
    if make is of_questions:
        pd.testing.assert_frame_equal(read_parquet(whole), read_parquet(parts))


@BOTH
@pytest.mark.parametrize("damage", ["bytes", "record"])
def test_only_what_is_broken_is_made_again(world, monkeypatch, caplog, make, damage):
    monkeypatch.setattr(logger, "propagate", True)
    expected = contents(out := make(world))
    blocks = sorted(out.with_suffix("").glob("*.npz"))
    before = {block: block.stat().st_mtime_ns for block in blocks}
    if damage == "bytes":
        data = bytearray(blocks[1].read_bytes())
        data[len(data) // 2] ^= 1
        blocks[1].write_bytes(data)
    else:
        blocks[1].with_suffix(".json").write_text('{"rows": 2}')
    with caplog.at_level(logging.WARNING, logger="retrotune"):
        make(world)
    said = [record.getMessage() for record in caplog.records if "making the block again" in record.getMessage()]
    assert len(said) == 1
    assert str(blocks[1].with_suffix("")) in said[0]
    assert contents(out) == expected
    assert [block for block in blocks if block.stat().st_mtime_ns != before[block]] == [blocks[1]]


def test_a_changed_question_makes_its_block_again_and_other_passages_make_all(world):
    out = of_questions(world)
    blocks = sorted(out.with_suffix("").glob("*.npz"))
    before = [block.stat().st_mtime_ns for block in blocks]
    write_split(world / "test.parquet", questions("elk"))
    of_questions(world)
    after = [block.stat().st_mtime_ns for block in blocks]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, True, True, False]
    frame = pd.read_parquet(world / "passages.parquet")
    frame.loc[0, "text"] = "changed"
    write_parquet(world / "passages.parquet", frame)
    of_questions(world)
    assert all(block.stat().st_mtime_ns != time for block, time in zip(blocks, after, strict=True))


def test_other_references_change_nothing_where_no_answers_are_looked_for(world):
    """Only gold needs them: for all others a corrected answer searches nothing again."""
    expected = contents(out := of_questions(world))
    before = {file: file.stat().st_mtime_ns for file in out.with_suffix("").glob("*.npz")}
    corrected = [dataclasses.replace(question, answers=("y",), evidence=("z",)) for question in questions()]
    write_split(world / "test.parquet", corrected)
    of_questions(world)
    assert contents(out) == expected
    assert all(file.stat().st_mtime_ns == time for file, time in before.items())

    def gold() -> dict[str, bytes]:
        references = world / "test.references.parquet"
        cache_questions(world / "test.parquet", world / "passages.parquet", RetrieverEntry(kind="gold"), 4, True, out,
                        references=references)  # fmt: skip
        return {name: data for name, data in contents(out).items() if name.endswith(".json")}

    first = gold()
    assert gold() == first
    write_split(world / "test.parquet", questions())
    assert gold() != first


def test_blocks_of_another_size_go_away(world):
    of_questions(world, 2)
    (world / "n" / "notes.npz").write_bytes(b"not ours")
    of_questions(world, 7)
    assert sorted(file.name for file in (world / "n").glob("*.npz")) == [block_name(0, 7), "notes.npz"]


def test_a_document_with_fewer_passages_gives_all_and_minus_one(world, caplog, monkeypatch):
    monkeypatch.setattr(logger, "propagate", True)
    with caplog.at_level(logging.WARNING, logger="retrotune"):
        out = of_questions(world, 100, own=True, top_k=5)
    assert "7 of 7 texts have fewer than 5 passages" in caplog.text
    (block,) = (world / "n").glob("*.npz")
    with np.load(block, allow_pickle=False) as arrays:
        rows, scores = arrays["rows"], arrays["scores"]
    assert (rows.dtype, scores.dtype, rows.shape, scores.shape) == (np.int64, np.float32, (7, 5), (7, 5))
    assert (np.sort(rows[:, :3], axis=1) == np.arange(21).reshape(7, 3)).all()
    assert (rows[:, 3:] == -1).all()
    assert np.isneginf(scores[:, 3:]).all()
    assert {len(ranked) for ranked in load_neighbors(out).values()} == {3}
    manifest = read_json(out.with_suffix(".manifest.json"))
    assert [manifest[name] for name in ("texts", "texts_with_fewer", "texts_without_passage", "hits")] == [7, 7, 0, 21]


def test_continuation_is_the_next_passage_of_the_same_document(world):
    table = PassageTable(world / "passages.parquet")
    assert table.following([0, 1, 2, -1, len(TEXTS) - 1, 3]).tolist() == [1, 2, -1, -1, -1, 4]
    given = table.given([0, 2, len(TEXTS) - 1], continuation=True)["text"].to_pylist()
    assert given == [f"{TEXTS[0]} {TEXTS[1]}", TEXTS[2], TEXTS[-1]]
    out, plain = of_questions(world), world / "plain.parquet"
    args = (world / "test.parquet", world / "passages.parquet", BM25, 4, False)
    cache_questions(*args, plain, continuation=False)
    cache_questions(*args, out, continuation=True)
    for name, ranked in load_neighbors(out).items():
        for passage, bare in zip(ranked, load_neighbors(plain)[name], strict=True):
            row = int(passage.passage_id[1:])
            goes_on = [TEXTS[row], TEXTS[row + 1]] if row % 3 < 2 else [TEXTS[row]]
            assert (passage.text, bare.text) == (" ".join(goes_on), TEXTS[row])
            assert (passage.passage_id, passage.score) == (bare.passage_id, bare.score)


def test_continuation_of_neighbors_of_text(world):
    out = of_text(world)
    rows = {p.passage_id: p.text for ranked in load_pretraining_neighbors(out).values() for p in ranked}
    assert all(text == TEXTS[int(name[1:])] for name, text in rows.items())
    of_text(world, continuation=True)
    for passages in load_pretraining_neighbors(out).values():
        for passage in passages:
            row = int(passage.passage_id[1:])
            assert passage.text == " ".join(TEXTS[row : row + 2] if row % 3 < 2 else TEXTS[row : row + 1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda world: (world / "n" / block_name(4, 4)).unlink(), "000000000004-000000000008.npz: block is missing"),
        (lambda world: (world / "n" / block_name(0, 4)).write_bytes(b""), "block is damaged"),
        (lambda world: (world / "n.json").write_text("[]"), "no manifest of a neighbor cache"),
        (lambda world: (world / "n.json").unlink(), "no such neighbor cache"),
        (lambda world: (world / "passages.parquet").unlink(), "no such passages"),
        (lambda world: write_parquet(world / "passages.parquet", _other(world)), "its passages are not those of"),
    ],
)
def test_a_damaged_cache_of_text_is_refused(world, damage, message):
    out = of_text(world)
    damage(world)
    with pytest.raises(RetrievalError, match=message):
        load_pretraining_neighbors(out)


def _other(world: Path) -> pd.DataFrame:
    frame = pd.read_parquet(world / "passages.parquet")
    return frame.assign(text="another")


@given(st.lists(st.tuples(st.text(max_size=4), st.integers(1, 4)), max_size=8), st.integers(0, 3))
def test_keys_survive_the_disk(documents, cut):
    pairs = [(doc_id, chunk) for doc_id, chunks in documents for chunk in range(chunks)][cut:]
    keys = Keys.of(pairs)
    assert list(keys.pairs()) == pairs
    assert list(Keys.read(keys.arrays()).pairs()) == pairs


# two processes -------------------------------------------------------------------------------------------------------
def together(code: str) -> list[str]:
    """Run `code` in two processes that start at the same moment; what each of them logged."""
    go = f"import sys, time\nfrom retrotune.runtime.log import setup_logging\nsetup_logging()\n{code}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", go]
    start = functools.partial(subprocess.Popen, stderr=subprocess.PIPE, text=True, env=environment)
    processes = [start(command), start(command)]
    logs = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], logs
    return logs


def test_two_processes_want_the_same_blocks_of_a_cache(world):
    code = f"""
from pathlib import Path
from retrotune.study.config import RetrieverEntry
from retrotune.retrieval.caches import questions
from retrotune.retrieval.search import sparse
from retrotune.study.stages import CacheNeighborsParams
search = sparse.SparseSearcher.search
def slow(self, encoded, k):
    time.sleep(0.05)
    print("searched", len(encoded), file=sys.stderr)
    return search(self, encoded, k)
sparse.SparseSearcher.search = slow
world = Path({str(world)!r})
params = CacheNeighborsParams(retriever=RetrieverEntry(kind="bm25"), top_k=4, own_documents=False)
questions.cache_neighbors(params, world / "test.parquet", world / "passages.parquet", world / "both.parquet",
                          block_texts=1)
"""
    logs = together(code)
    assert sum(log.count("searched 1\n") for log in logs) == len(questions())
    assert load_neighbors(world / "both.parquet") == load_neighbors(of_questions(world))
    names = {name: data for name, data in contents(of_questions(world, 1)).items() if name.endswith(".npz")}
    assert {name: (world / "both" / name).read_bytes() for name in names} == names


def test_two_processes_want_the_same_blocks_of_vectors(world, tmp_path):
    folder = make_bert(tmp_path / "bert", 1)
    entry = RetrieverEntry(query_model=str(folder), pooling="mean", max_length=16, block_passages=4)
    params, passages = EmbedParams(retriever=entry), world / "passages.parquet"
    code = f"""
from retrotune.retrieval.vectors.embeddings import embed_passages
from retrotune.study.stages import EmbedParams
embed_passages(EmbedParams.of({params.text()!r}), {str(passages)!r}, OUT)
"""
    both, alone = world / "both.json", world / "alone.json"
    logs = together(code.replace("OUT", repr(str(both))))
    blocks = sorted((world / "both").glob("*.npy"))
    assert len(blocks) == -(-len(TEXTS) // 4)
    assert sum(log.count(" INFO block ") for log in logs) == len(blocks), logs
    embed_passages(params, passages, alone)
    for block in blocks:
        np.testing.assert_allclose(np.load(block), np.load(world / "alone" / block.name), atol=2e-3)
    assert read_json(both)["rows"] == read_json(alone)["rows"] == len(TEXTS)


def test_a_block_named_by_its_range_sorts_by_its_range():
    names = [block_name(start, 10) for start in (0, 10, 100, 19_000_000_000)]
    assert names == sorted(names)
    assert names[1] == "000000000010-000000000020.npz"
    assert all(results.BLOCK_NAME.fullmatch(name) for name in names)
