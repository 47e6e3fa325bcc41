"""Indexes: settings, exact search, recall, re-ranking, devices, and what they refuse."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from index_cases import build as build_over
from index_cases import clustered, write_embeddings
from pydantic import ValidationError

from retrotune.errors import RetrievalError
from retrotune.retrieval.search.exact import Best
from retrotune.retrieval.search.factory import num_lists, settle
from retrotune.retrieval.search.index import OpenIndex, manifest_path, open_index
from retrotune.retrieval.search.shards import best_of
from retrotune.retrieval.vectors.embeddings import Embeddings
from retrotune.runtime.files import read_json, sha256, write_json
from retrotune.study.config import IndexEntry


def build(folder: Path, entry: IndexEntry, vectors: np.ndarray) -> tuple[OpenIndex, dict[str, Any]]:
    """An index over vectors in three blocks, opened, and its manifest."""
    manifest = folder / "e.json"
    if not manifest.exists():
        write_embeddings(folder, np.array_split(vectors, 3))
    build_over(manifest, entry, folder / "i.json")
    return open_index(folder / "i.json", Embeddings(manifest)), read_json(manifest_path(folder / "i.json"))


def by_hand(vectors: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Rows of the best `k`, ties to the lower row, by a stable sort of all scores."""
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("entry", [IndexEntry(), IndexEntry(preset="exact"), IndexEntry(factory="Flat")], ids=str)
def test_exact_index_equals_brute_force_and_needs_no_file(tmp_path: Path, entry: IndexEntry) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(50, 8)).astype(np.float16)
    index, manifest = build(tmp_path, entry, vectors)
    queries = rng.normal(size=(7, 8)).astype(np.float32)
    scores, rows = index.search(queries, 5)
    np.testing.assert_array_equal(rows, by_hand(vectors, queries, 5))
    exact = queries @ vectors.astype(np.float32).T
    np.testing.assert_allclose(scores, -np.sort(-exact, axis=1)[:, :5], rtol=1e-5)
    assert not (tmp_path / "i").exists(), "an exact search has no index file"
    assert (manifest["kind"], manifest["count"], manifest["bytes_per_vector"]) == ("exact", 50, 0)
    assert manifest["recall"] == {"1": 1, "5": 1, "20": 1}, "100 of 49 others cannot be asked for"
    assert manifest["embeddings_sha256"] == sha256(tmp_path / "e.json")


@given(st.data())
def test_best_equals_a_stable_sort(data: st.DataObject) -> None:
    scores = np.array(
        data.draw(st.lists(st.lists(st.integers(-3, 3), min_size=30, max_size=30), min_size=2, max_size=2))
    )
    k, size = data.draw(st.integers(1, 33)), data.draw(st.integers(1, 30))
    best = Best(2, k)
    for start in range(0, 30, size):
        best.offer(scores[:, start : start + size].astype(np.float32), start)
    kept = min(k, 30)
    np.testing.assert_array_equal(best.rows[:, :kept], np.argsort(-scores, axis=1, kind="stable")[:, :k])
    assert (best.rows[:, kept:] == -1).all()
    assert np.isneginf(best.scores[:, kept:]).all()


@given(st.lists(st.integers(-2, 2), min_size=2, max_size=40), st.integers(1, 5), st.integers(1, 45))
def test_merged_shards_equal_one_index(values: list[int], num_shards: int, k: int) -> None:
    """Flat indexes over parts, merged, are a stable sort of all scores, whatever the cuts and the ties."""
    scores = np.array([values], dtype=np.float32)
    parts = np.array_split(np.arange(len(values)), num_shards)
    hits = []
    for part in parts:
        order = part[np.argsort(-scores[0, part], kind="stable")][:k]
        rows = np.full((1, k), -1)
        rows[0, : len(order)] = order
        hits.append((np.where(rows >= 0, scores[0, rows], -np.inf), rows))
    _, merged = best_of(np.concatenate([s for s, _ in hits], 1), np.concatenate([r for _, r in hits], 1), k)
    kept = min(k, len(values))
    np.testing.assert_array_equal(merged[0, :kept], np.argsort(-scores[0], kind="stable")[:k])
    assert (merged[0, kept:] == -1).all()


@pytest.mark.parametrize(
    ("entry", "floor"),
    [
        (IndexEntry(preset="ivf-flat", nprobe=4), 0.95),
        (IndexEntry(preset="hnsw"), 0.95),
        (IndexEntry(factory="IVF8_HNSW32,PQ8", nprobe=8), 0.4),
        (IndexEntry(factory="IVF8_HNSW32,PQ8", nprobe=8, rerank=100), 0.95),
        (IndexEntry(factory="HNSW16,Flat", ef_search=200, shard_vectors=400), 0.95),
    ],
    ids=str,
)
def test_recall_of_the_manifest_is_that_of_the_search(tmp_path: Path, entry: IndexEntry, floor: float) -> None:
    vectors = clustered(1000, 32)
    index, manifest = build(tmp_path, entry, vectors)
    queries = vectors[::7].astype(np.float32)
    _, rows = index.search(queries, 6)
    exact = by_hand(vectors, queries, 6)
    recall = np.mean(
        [len(set(a[a != own]) & set(b[b != own])) / 5 for own, a, b in zip(range(0, 1000, 7), rows, exact, strict=True)]
    )
    assert manifest["recall"]["5"] == pytest.approx(recall, abs=0.08), "measured on other stored vectors"
    assert manifest["recall"]["5"] >= floor
    assert set(manifest["recall"]) == {"1", "5", "20", "100"}
    size = sum(path.stat().st_size for path in (tmp_path / "i").glob("[0-9]*.faiss"))
    assert (manifest["bytes"], manifest["bytes_per_vector"]) == (size, size / 1000)
    assert all(round(value, 4) == value for value in manifest["recall"].values())
    assert manifest["build_seconds"] > 0
    assert manifest["search_seconds_per_query"] > 0


def test_reranked_scores_are_exact(tmp_path: Path) -> None:
    vectors = clustered(600, 32)
    index, _ = build(tmp_path, IndexEntry(factory="IVF4,PQ4x4", nprobe=4, rerank=600), vectors)
    queries = vectors[:9].astype(np.float32)
    scores, rows = index.search(queries, 10)
    np.testing.assert_array_equal(rows, by_hand(vectors, queries, 10))
    expected = np.take_along_axis(queries @ vectors.astype(np.float32).T, rows, axis=1)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["ivf-flat", "hnsw"])
def test_whole_vectors_have_exact_scores(tmp_path: Path, name: Any) -> None:
    """Nothing is lost in the index: all that is found is scored as the stored float16 vector is."""
    vectors = (7 * clustered(400, 32)).astype(np.float16)
    index, _ = build(tmp_path, IndexEntry(preset=name), vectors)
    queries = np.random.default_rng(1).normal(size=(9, 32)).astype(np.float32)
    scores, rows = index.search(queries, 20)
    expected = np.take_along_axis(queries @ vectors.astype(np.float32).T, rows, axis=1)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


def test_nprobe_and_ef_search_reach_faiss(tmp_path: Path) -> None:
    import faiss

    index, _ = build(
        tmp_path, IndexEntry(factory="OPQ4_8,IVF16_HNSW8,Flat", nprobe=3, ef_search=99), clustered(700, 16)
    )
    lists = faiss.extract_index_ivf(index.shards[0].index)
    assert lists.nprobe == 3
    assert faiss.downcast_index(lists.quantizer).hnsw.efSearch == 99
    assert index.shards[0].index.metric_type == faiss.METRIC_INNER_PRODUCT


@pytest.mark.parametrize(
    ("vectors", "training", "lists"),
    [(1, 1, 1), (400, 400, 8), (1_000_000, 200_000, 4096), (21_000_000, 200_000, 4096), (21_000_000, 10**6, 16384)],
)
def test_number_of_lists(vectors: int, training: int, lists: int) -> None:
    assert num_lists(vectors, training) == lists
    settings = settle(IndexEntry(preset="ivf-flat", training_vectors=training), vectors)
    assert settings.factory == f"IVF{lists},SQfp16"
    assert settings.nprobe == min(lists, max(8, lists // 64))


def test_the_lists_of_a_shard_follow_its_own_vectors() -> None:
    settings = settle(IndexEntry(preset="ivf-pq", shard_vectors=1_000_000), 5_592_405)
    assert (settings.num_shards, settings.factory) == (6, "OPQ64_128,IVF4096_HNSW32,PQ64")
    assert (settings.nprobe, settings.ef_search) == (64, 128)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"preset": "hnsw", "factory": "HNSW32"}, "exclude each other: remove one"),
        ({"nprobe": 3}, "an exact search has no nprobe: remove it"),
        ({"factory": "Flat", "rerank": 10, "shard_vectors": 5}, "no shard_vectors, rerank"),
        ({"preset": "hnsw", "nprobe": 3}, r"nprobe=3, but 'HNSW32_SQfp16' has no lists \(IVF\): remove nprobe"),
        ({"preset": "ivf-flat", "ef_search": 3}, r"has no graph \(HNSW\): remove ef_search"),
        ({"factory": "IVF16,Flat", "nprobe": 17}, "nprobe=17 exceeds the 16 lists of 'IVF16,Flat': lower it"),
        ({"factory": "IVF{count},Flat"}, r"only \{lists\} is filled in, not \['count'\]"),
        ({"factory": "IVF{lists,Flat"}, r"only \{lists\} is filled in"),
        ({"rerank": -1}, "greater than or equal to 0"),
        ({"probes": 1}, "Extra inputs"),
    ],
    ids=str,
)
def test_combinations_that_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        IndexEntry(**fields)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (IndexEntry(factory="Flatt"), "'Flatt' does not suit 300 vectors of width 16.*correct the factory string"),
        (IndexEntry(factory="IVF512,Flat"), "needs 512 training vectors and got 300: set preset: exact"),
        (
            IndexEntry(factory="IVF4,PQ4", training_vectors=99),
            "needs 256 training vectors and got 99.*raise training_v",
        ),
        (IndexEntry(preset="ivf-flat", nprobe=9), "nprobe=9 exceeds the 4 lists of 'IVF4,SQfp16' over 300 vectors"),
        (IndexEntry(preset="ivf-pq"), "OPQ64_128.* does not suit vectors of width 16: it makes 128 dim.*ivf-flat"),
    ],
    ids=str,
)
def test_settings_that_do_not_suit_the_vectors(tmp_path: Path, entry: IndexEntry, message: str) -> None:
    with pytest.raises(RetrievalError, match=re.compile(message, re.DOTALL)):
        build(tmp_path, entry, clustered(300, 16))
    assert not (tmp_path / "i.json").exists()


@pytest.mark.parametrize("entry", [IndexEntry(), IndexEntry(preset="hnsw")], ids=str)
@pytest.mark.parametrize(("value", "fault"), [(np.nan, "not finite"), (np.inf, "not finite"), (0.0, "zero")])
def test_bad_vectors(tmp_path: Path, entry: IndexEntry, value: float, fault: str) -> None:
    vectors = np.eye(8)
    vectors[6] = value
    with pytest.raises(RetrievalError, match=f"passage 'p6' has a vector that is {fault}"):
        build(tmp_path, entry, vectors)
    assert not (tmp_path / "i.json").exists()


@pytest.mark.parametrize("entry", [IndexEntry(), IndexEntry(preset="ivf-flat"), IndexEntry(preset="hnsw")], ids=str)
def test_more_hits_than_vectors(tmp_path: Path, entry: IndexEntry) -> None:
    index, _ = build(tmp_path, entry, clustered(12, 8))
    scores, rows = index.search(np.ones((2, 8)), 20)
    assert rows.shape == scores.shape == (2, 20)
    assert sorted(rows[0, :12]) == list(range(12))
    assert (rows[:, 12:] == -1).all()
    assert np.isneginf(scores[:, 12:]).all()
    none = index.search(np.empty((0, 8)), 3)
    assert [(found.shape, found.dtype) for found in none] == [((0, 3), np.float32), ((0, 3), np.int64)]


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (np.ones((2, 9)), "queries of shape .2, 9. for vectors of width 8.*do not belong together"),
        (np.array([[1.0] * 8, [np.nan] * 8]), "query 1 has a vector that is not finite"),
    ],
    ids=["width", "nan"],
)
def test_queries_that_do_not_fit(tmp_path: Path, queries: np.ndarray, message: str) -> None:
    index, _ = build(tmp_path, IndexEntry(), clustered(12, 8))
    with pytest.raises(RetrievalError, match=message):
        index.search(queries, 3)


def test_index_of_other_embeddings(tmp_path: Path) -> None:
    build(tmp_path / "one", IndexEntry(), clustered(12, 8))
    for name, vectors in (("other", clustered(12, 8, seed=1)), ("wider", clustered(12, 16))):
        other = Embeddings(write_embeddings(tmp_path / name, [vectors]))
        with pytest.raises(RetrievalError, match=r"made from other embeddings .12 vectors of width 8.*run build_index"):
            open_index(tmp_path / "one/i.json", other)
    for content in ([], {"rows": 12}, {"rows": 12, "dim": 8, "settings": {}, "shards": [], "embeddings_sha256": ""}):
        write_json(tmp_path / "one/i.json", content)
        with pytest.raises(RetrievalError, match=r"not an index of this package|made from other embeddings"):
            open_index(tmp_path / "one/i.json", Embeddings(tmp_path / "one/e.json"))


def test_gpu_branches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU here, FAISS' GPU functions are stood in for by CPU ones: the results must not differ."""
    import faiss

    vectors = clustered(300, 16)
    queries = vectors[:5].astype(np.float32)
    on_cpu = {
        name: build(tmp_path / name, IndexEntry(preset=name, device="cpu"), vectors)[0].search(queries, 7)
        for name in ("exact", "ivf-flat", "hnsw")
    }
    moved: list[str] = []

    def to_gpus(index: Any, co: Any = None) -> Any:
        moved.append(type(index).__name__)
        if "HNSW" in moved[-1]:
            raise RuntimeError("This index type is not implemented on GPU.")
        return index

    def knn_gpu(resources: Any, queries: np.ndarray, block: np.ndarray, k: int, metric: int) -> Any:
        moved.append("block")
        return faiss.knn(queries, block, k, metric=metric)

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    for name in ("GpuMultipleClonerOptions", "StandardGpuResources"):
        monkeypatch.setattr(faiss, name, type(name, (), {}), raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", to_gpus)
    monkeypatch.setattr(faiss, "knn_gpu", knn_gpu)
    for name, (scores, rows) in on_cpu.items():
        moved.clear()
        found_scores, found_rows = build(tmp_path / f"{name}-gpu", IndexEntry(preset=name), vectors)[0].search(
            queries, 7
        )
        assert moved, name
        np.testing.assert_array_equal(found_rows, rows)
        np.testing.assert_allclose(found_scores, scores, rtol=1e-5)
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(on_cpu["exact"][1], on_cpu["exact"][1] + 1)


MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
import faiss
from retrotune.study.config import IndexEntry
from retrotune.retrieval.vectors.embeddings import Embeddings
from retrotune.retrieval.search.index import build_index, open_index
from retrotune.study.stages import BuildIndexParams
faiss.omp_set_num_threads(1)
data = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (data + (220 << 20),) * 2)
folder = Path(sys.argv[1])
build_index(BuildIndexParams(index=IndexEntry()), folder / "e.json", folder / "i.json")
vectors = Embeddings(folder / "e.json")
picked = np.arange(0, 400000, 4000)
print(np.mean(open_index(folder / "i.json", vectors).search(vectors.take(picked), 1)[1][:, 0] == picked))
"""


def test_memory_stays_below_the_vectors(tmp_path: Path) -> None:
    """400,000 vectors of width 128 are 205 MB as float32; 120 MB are allowed, buffers of BLAS included."""
    rng = np.random.default_rng(0)
    write_embeddings(tmp_path, [rng.normal(size=(100_000, 128)).astype(np.float16) for _ in range(4)])
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (0, "1.0\n"), ended.stderr


def test_training_in_parts_equals_faiss_own(tmp_path: Path) -> None:
    """OPQ and PCA learn before the lists and codes do; the index finds what one trained by FAISS as a whole finds."""
    import faiss

    vectors = clustered(900, 32)
    for factory in ("PCA16,IVF4,Flat", "PCAR8,PQ4x4", "L2norm,IVF4,Flat"):
        index, _ = build(tmp_path / factory, IndexEntry(factory=factory), vectors)
        whole = faiss.index_factory(32, factory, faiss.METRIC_INNER_PRODUCT)
        whole.train(vectors.astype(np.float32))
        whole.add(vectors.astype(np.float32))
        if "IVF" in factory:
            faiss.extract_index_ivf(whole).nprobe = 4
        queries = vectors[:50].astype(np.float32)
        found, expected = index.search(queries, 5)[0], whole.search(queries, 5)[0]
        np.testing.assert_allclose(found, expected, atol=0.02, err_msg=factory)


def test_blocks_cover_any_range_of_rows(tmp_path: Path) -> None:
    values = np.arange(1, 41).reshape(20, 2)
    vectors = Embeddings(write_embeddings(tmp_path, [values[:7], values[7:8], values[8:]]))
    for start, stop, rows in ((0, None, 3), (5, 12, 100), (7, 8, 1), (19, 20, 5), (4, 4, 2)):
        pieces = list(vectors.blocks(rows, start, stop))
        assert all(len(block) <= rows for _, block in pieces)
        found = [row + place for row, block in pieces for place in range(len(block))]
        assert found == list(range(start, 20 if stop is None else stop))
        for row, block in pieces:
            np.testing.assert_array_equal(block, values[row : row + len(block)])
