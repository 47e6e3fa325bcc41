"""Searching, and neighbor caches of questions."""

import dataclasses
import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_cases import write_split
from hypothesis import given
from hypothesis import strategies as st
from index_cases import build
from neighbor_cases import cache_questions

from retrotune.data.datasets.base import Example, Passage
from retrotune.errors import RetrievalError
from retrotune.retrieval.caches.questions import load_neighbors
from retrotune.retrieval.caches.results import Search
from retrotune.retrieval.passages import PassageTable
from retrotune.retrieval.search.ranking import best_rows
from retrotune.retrieval.search.sparse import SparseSearcher
from retrotune.retrieval.vectors import encoders
from retrotune.runtime.files import read_json, sha256, write_json, write_parquet
from retrotune.runtime.log import logger
from retrotune.study.config import IndexEntry, RetrieverEntry

BM25 = RetrieverEntry(kind="bm25")
DENSE = RetrieverEntry(query_model="hand-made")

# doc, title, text, vector: p2 and p3 are twins
PASSAGES = [
    ("d0", "Ann", "ann lives near the old harbor", (1.0, 0.0, 0.0)),
    ("d0", "Ann", "ann keeps seven goats", (0.8, 0.2, 0.0)),
    ("d1", "Bob", "bob paints the harbor", (0.5, 0.5, 0.5)),
    ("d1", "Bob", "bob paints the harbor", (0.5, 0.5, 0.5)),
    ("d1", "Bob", "nobody knows where bob was born", (0.0, 1.0, 0.25)),
    ("d2", "", "goats eat thistles", (0.0, 0.0, 1.0)),
]
QUESTIONS = {"harbor": (1.0, 0.25, 0.0), "goats": (0.25, 0.0, 1.0), "bob born": (0.0, 1.0, 0.0)}


class HandMadeEncoder:
    """Known vectors for known texts."""

    dim = 3

    def encode(self, texts: list[str]) -> Any:
        return np.array([QUESTIONS[text] for text in texts], dtype=np.float32).reshape(-1, 3)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Passages, hand-made vectors in two blocks, an index, and questions with and without documents."""
    files = {name: tmp_path / f"{name}.parquet" for name in ("passages", "open", "own")}
    frame = pd.DataFrame([row[:3] for row in PASSAGES], columns=["doc_id", "title", "text"])
    frame.insert(0, "passage_id", [f"p{row}" for row in range(len(frame))])
    write_parquet(files["passages"], frame)
    write_split(files["open"], [Example(f"q{n}", text, ("x",)) for n, text in enumerate(QUESTIONS)])
    documents = ("d1", "d0", "d1")
    examples = [Example(f"q{n}", text, ("x",), documents[n]) for n, text in enumerate(QUESTIONS)]
    write_split(files["own"], examples)
    monkeypatch.setattr(encoders, "load_encoder", lambda entry, which: HandMadeEncoder())
    monkeypatch.setattr(encoders, "fingerprint", lambda entry, which="passage": "hand-made")
    (tmp_path / "vectors").mkdir()
    vectors = np.array([row[3] for row in PASSAGES], dtype=np.float16)
    blocks = []
    for number, block in enumerate((vectors[:4], vectors[4:])):
        path = tmp_path / "vectors" / f"{number:05d}.npy"
        np.save(path, block)
        blocks.append({"rows": len(block), "sha256": sha256(path)})
    files["embeddings"], files["index"] = tmp_path / "vectors.json", tmp_path / "flat.faiss"
    made_from = {"retriever": "hand-made", "passages": str(files["passages"])}
    made_from["passages_sha256"] = sha256(files["passages"])
    write_json(files["embeddings"], {"rows": 6, "dim": 3, "blocks": blocks, **made_from})
    build(files["embeddings"], IndexEntry(), files["index"])
    files["out"] = tmp_path / "neighbors.parquet"
    return files


def found(path: Path) -> dict[str, list[str]]:
    return {key: [passage.passage_id for passage in ranked] for key, ranked in load_neighbors(path).items()}


def cache(world: dict[str, Path], kind: str, retriever: RetrieverEntry, top_k: int, **changed: Any) -> None:
    files = {"embeddings": world["embeddings"], "index": world["index"], **changed}
    cache_questions(world[kind], world["passages"], retriever, top_k, kind == "own", world["out"], **files)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.integers(1, 40))
def test_best_rows_is_a_stable_sort(values: list[int], k: int) -> None:
    expected = sorted(range(len(values)), key=lambda row: (-values[row], row))[:k]
    assert best_rows(np.array(values, dtype=np.float32), k).tolist() == expected


def test_open_domain_finds_known_neighbors_with_ties_by_row(world: dict[str, Path]) -> None:
    cache(world, "open", DENSE, 4)
    assert found(world["out"]) == {
        "q0": ["p0", "p1", "p2", "p3"],
        "q1": ["p5", "p2", "p3", "p0"],
        "q2": ["p4", "p2", "p3", "p1"],
    }
    # p0 and p4 tie for the last place of q1
    first = load_neighbors(world["out"])["q0"][0]
    assert first == Passage("p0", "Ann", "ann lives near the old harbor", 1.0)
    frame = pd.read_parquet(world["out"])
    assert list(frame.columns) == ["question_id", "rank", "passage_id", "title", "text", "score"]
    assert frame["rank"].tolist() == [0, 1, 2, 3] * 3


def test_ties_beyond_the_margin_go_to_the_first_rows() -> None:
    import faiss

    from retrotune.retrieval.search.searchers import TIE_MARGIN, DenseSearcher

    vectors = np.ones((10 * TIE_MARGIN, 3), dtype=np.float32)
    vectors[7] = 2
    index = faiss.IndexFlatIP(3)
    index.add(vectors)
    rows, _ = DenseSearcher(HandMadeEncoder(), Vectors(len(vectors)), index).search(vectors[:2], 4)
    assert rows.tolist() == [[7, 0, 1, 2]] * 2


class Vectors:
    """Stands for embeddings where only an index is searched."""

    dim = 3

    def __init__(self, rows: int) -> None:
        self.rows = rows


def test_own_document_search_is_restricted_and_exact(
    world: dict[str, Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.WARNING, logger="retrotune")
    cache(world, "own", DENSE, 3, index=None)
    assert found(world["out"]) == {"q0": ["p2", "p3", "p4"], "q1": ["p0", "p1"], "q2": ["p4", "p2", "p3"]}
    assert "1 of 3 texts have fewer than 3 passages" in caplog.text
    manifest = read_json(world["out"].with_suffix(".manifest.json"))
    assert (manifest["texts"], manifest["texts_with_fewer"], manifest["hits"]) == (3, 1, 8)
    vectors = np.array([row[3] for row in PASSAGES], dtype=np.float32)
    for question, passage in zip(QUESTIONS.values(), (2, 0, 4), strict=True):
        best = load_neighbors(world["out"])[f"q{list(QUESTIONS.values()).index(question)}"][0]
        assert best.score == pytest.approx(float(vectors[passage] @ np.array(question)))


def test_bm25_open_domain_and_own_documents(world: dict[str, Path]) -> None:
    cache(world, "open", BM25, 2, embeddings=None, index=None)
    assert found(world["out"]) == {"q0": ["p2", "p3"], "q1": ["p5", "p1"], "q2": ["p4", "p2"]}
    cache(world, "own", BM25, 2, embeddings=None, index=None)
    assert found(world["out"]) == {"q0": ["p2", "p3"], "q1": ["p1", "p0"], "q2": ["p4", "p2"]}


def test_bm25_scores_equal_the_formula(world: dict[str, Path]) -> None:
    searcher = SparseSearcher(PassageTable(world["passages"]))
    documents = [f"{title} {text}".lower().split() for _, title, text, _ in PASSAGES]
    documents = [[word for word in words if word not in ("the", "was")] for words in documents]
    average = np.mean([len(words) for words in documents])
    holding = sum("goats" in words for words in documents)
    weight = np.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
    counts = np.array([words.count("goats") for words in documents])
    lengths = np.array([len(words) for words in documents])
    expected = weight * counts / (counts + 1.5 * (0.25 + 0.75 * lengths / average))
    scores = searcher.score(searcher.encode(["GOATS unheard"]), np.arange(6))[0]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_bm25_query_without_known_words_takes_the_first_passages(world: dict[str, Path]) -> None:
    searcher = SparseSearcher(PassageTable(world["passages"]))
    rows, scores = searcher.search(searcher.encode(["zzz", ""]), 3)
    assert rows.tolist() == [[0, 1, 2]] * 2
    assert not scores.any()


def test_what_changes_speed_alone_searches_nothing_again(world: dict[str, Path]) -> None:
    def made(**changes: Any) -> list[int]:
        cache(world, "open", DENSE.model_copy(update=changes), 2)
        return [block.stat().st_mtime_ns for block in world["out"].with_suffix("").glob("*.npz")]

    first = made()
    assert made(batch_tokens=77) == first
    assert made(max_length=77) != first


def test_a_search_is_known_by_all_that_determines_its_hits(world: dict[str, Path]) -> None:
    search = Search(DENSE, 2, world["passages"], world["embeddings"], world["index"])
    table = PassageTable(world["passages"])

    def degraded(base: RetrieverEntry, **more: Any) -> RetrieverEntry:
        return RetrieverEntry(kind="degraded", base=base, **more)

    changes: list[dict[str, Any]] = [
        {}, {"retriever": BM25}, {"retriever": degraded(BM25)}, {"retriever": degraded(RetrieverEntry(kind="gold"))},
        {"retriever": degraded(BM25, seed=1)}, {"top_k": 3},
        {"embeddings": world["index"]}, {"embeddings": None}, {"index": world["embeddings"]}, {"index": None},
    ]  # fmt: skip
    digests = [dataclasses.replace(search, **change).digest(table, 1) for change in changes]
    digests += [search.digest(table, 2), search.digest(table, 1, own_documents=True)]
    write_parquet(world["passages"], pd.read_parquet(world["passages"]).assign(text="other"))
    digests.append(search.digest(PassageTable(world["passages"]), 1))
    assert len(set(digests)) == len(digests)


def test_other_vectors_are_searched_again(world: dict[str, Path]) -> None:
    cache(world, "own", DENSE, 3, index=None)
    block, manifest = world["embeddings"].with_suffix("") / "00000.npy", read_json(world["embeddings"])
    np.save(block, np.load(block)[[1, 0, 2, 3]])
    manifest["blocks"][0]["sha256"] = sha256(block)
    write_json(world["embeddings"], manifest)
    cache(world, "own", DENSE, 3, index=None)
    assert found(world["out"])["q1"] == ["p1", "p0"], "the vectors of p0 and p1 have changed places"


@pytest.mark.parametrize("retriever", [DENSE, BM25], ids=["dense", "bm25"])
@pytest.mark.parametrize("top_k", [0, 7])
def test_top_k_beyond_the_index(world: dict[str, Path], retriever: RetrieverEntry, top_k: int) -> None:
    with pytest.raises(RetrievalError, match=rf"top_k={top_k}.*holds 6 passages: set top_k between 1 and 6"):
        cache(world, "open", retriever, top_k)
    assert not world["out"].exists()


def test_document_without_passages(world: dict[str, Path]) -> None:
    write_split(world["own"], [Example("q9", "goats", ("x",), "d9")])
    with pytest.raises(RetrievalError, match="'q9': its document 'd9' has no passage"):
        cache(world, "own", DENSE, 2)


def test_no_questions_make_an_empty_cache(world: dict[str, Path]) -> None:
    write_split(world["open"], [])
    for retriever in (DENSE, BM25):
        cache(world, "open", retriever, 2)
        assert load_neighbors(world["out"]) == {}


def test_things_that_do_not_belong_together(world: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RetrievalError, match="needs an index"):
        cache(world, "open", DENSE, 2, index=None)
    with pytest.raises(RetrievalError, match="needs the embeddings"):
        cache(world, "open", DENSE, 2, embeddings=None)
    with monkeypatch.context() as patch:
        patch.setattr(HandMadeEncoder, "dim", 4)
        with pytest.raises(RetrievalError, match="width 4.*width 3"):
            cache(world, "open", DENSE, 2)
    with monkeypatch.context() as patch:
        patch.setattr(encoders, "fingerprint", lambda entry, which="passage": "another model")
        with pytest.raises(RetrievalError, match="not made from retriever model"):
            cache(world, "open", DENSE, 2)
    frame = pd.read_parquet(world["passages"])
    frame.loc[0, "text"] = "changed"
    write_parquet(world["passages"], frame)
    with pytest.raises(RetrievalError, match=r"not made from .*passages\.parquet"):
        cache(world, "open", DENSE, 2)


def test_damaged_block_is_named(world: dict[str, Path]) -> None:
    block = world["embeddings"].with_suffix("") / "00001.npy"
    block.write_bytes(block.read_bytes()[:-1])
    for kind in ("open", "own"):
        with pytest.raises(RetrievalError, match=r"00001\.npy: block is damaged.*embed_passages"):
            cache(world, kind, DENSE, 2)


def without_columns(path: Path) -> None:
    write_parquet(path, pq.read_table(path).drop_columns(["rank"]))


def without_a_rank(path: Path) -> None:
    table = pq.read_table(path)
    write_parquet(path, table.filter(pa.compute.not_equal(pa.array(range(len(table))), 1)))


def without_a_question(path: Path) -> None:
    table = pq.read_table(path)
    write_parquet(path, table.filter(pa.compute.not_equal(table["question_id"], "q1")))


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_columns, "no column rank"),
        (without_a_rank, "q0 has rank 2 where 1 is due"),
        (without_a_question, "passages for 2 texts where 3 are due"),
        (cut_off, "damaged"),
    ],
)
def test_damaged_cache(world: dict[str, Path], damage: Any, message: str) -> None:
    cache(world, "open", BM25, 3)
    damage(world["out"])
    world["out"].with_suffix(".manifest.json").unlink()  # which would give it away at once
    with pytest.raises(RetrievalError, match=rf"neighbors\.parquet: .*{message}.*delete .* and run again"):
        load_neighbors(world["out"])


def test_no_flipped_bit_is_believed(world: dict[str, Path]) -> None:
    cache(world, "open", BM25, 3)
    content, good = world["out"].read_bytes(), load_neighbors(world["out"])
    rng = random.Random(0)
    for _ in range(200):
        flipped = bytearray(content)
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        world["out"].write_bytes(flipped)
        with pytest.raises(RetrievalError, match="delete .* and run again"):
            load_neighbors(world["out"])
    world["out"].write_bytes(content)
    assert load_neighbors(world["out"]) == good


def test_missing_cache(tmp_path: Path) -> None:
    with pytest.raises(RetrievalError, match=r"absent\.parquet: no such neighbor cache; run cache_neighbors"):
        load_neighbors(tmp_path / "absent.parquet")
