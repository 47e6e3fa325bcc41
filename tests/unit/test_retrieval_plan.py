"""What the plan foretells: bytes of FAISS indexes, growth, unknown parts, a study's rows."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from retrotune.cli import main
from retrotune.errors import ConfigError
from retrotune.plan.collections import WIKIPEDIA, study_collections
from retrotune.plan.estimate import human_bytes, human_seconds, plan_rows
from retrotune.plan.formulas import build_peak, bytes_per_vector, fixed_bytes, index_bytes, parse_factory
from retrotune.plan.rates import given_rates, reference_rates
from retrotune.runtime.files import write_parquet
from retrotune.study.config import ZeroshotMethod, load_config
from retrotune.study.paths import Paths

DIM = 32


def written_bytes(factory: str, vectors: int) -> int:
    """Bytes of the index that FAISS makes of so many vectors."""
    index = faiss.index_factory(DIM, factory, faiss.METRIC_INNER_PRODUCT)
    for part in (index, faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index):
        if hasattr(part, "do_polysemous_training"):
            part.do_polysemous_training = False  # slow, and of no effect on bytes
    drawn = np.random.default_rng(0).normal(size=(vectors, DIM)).astype(np.float32)
    index.train(drawn[:400])
    index.add(drawn)
    return len(faiss.serialize_index(index))


@pytest.mark.parametrize(
    "factory",
    [
        "IVF16,Flat",
        "IVF16,SQ8",
        "IVF16,SQfp16",
        "IVF16,PQ8x4",
        "IVF16_HNSW8,Flat",
        "OPQ4_16,IVF16_HNSW32,PQ4x4",
        "PCA16,IVF4,Flat",
        "PQ16x4",
        "SQ4",
        "HNSW32",
        "HNSW16,Flat",
        "HNSW8_SQ8",
    ],
)
def test_bytes_are_those_of_the_file_that_faiss_writes(factory: str) -> None:
    parsed = parse_factory(factory, DIM)
    few, many = written_bytes(factory, 2000), written_bytes(factory, 6000)
    assert (many - few) / 4000 == pytest.approx(bytes_per_vector(parsed), rel=0.01)
    assert many == pytest.approx(6000 * bytes_per_vector(parsed) + fixed_bytes(parsed), rel=0.02)


def test_the_published_family_has_72_bytes_per_vector() -> None:
    factory = parse_factory("OPQ64_128,IVF4194304_HNSW32,PQ64", 768)
    assert (factory.inner_dim, factory.lists, factory.coarse_links, factory.code_bytes) == (128, 4_194_304, 32, 64)
    assert bytes_per_vector(factory) == 72
    assert index_bytes(factory, 19_000_000_000) == pytest.approx(19e9 * 72 + 2 * 4_194_304 * (512 + 8 + 272), rel=0.01)
    assert parse_factory("IVF65k,Flat", 8).lists == 65 * 1024
    assert parse_factory("IVF4M_HNSW32,PQ8x4fs", 64).code_bytes == 4


def test_an_exact_index_has_no_file_and_holds_one_block() -> None:
    factory = parse_factory("Flat", 384)
    assert index_bytes(factory, 10**9) == 0
    assert build_peak(factory, 10**9, 1) == build_peak(factory, 10**6, 1) < 100e6


@pytest.mark.parametrize("factory", ["LSH", "IVF16,LSH", "OPQ8,IVF16,Nonsense", "RaBitQ", ""])
def test_a_factory_of_unknown_cost_is_refused(factory: str) -> None:
    with pytest.raises(ConfigError, match=r"the cost of .* is not known"):
        parse_factory(factory, 32)


@given(st.integers(10_000, 10**8), st.integers(1, 64), st.sampled_from(["IVF1024,Flat", "HNSW32", "IVF256,PQ16"]))
def test_shards_need_less_memory_and_more_vectors_more_of_all(vectors: int, shards: int, text: str) -> None:
    factory = parse_factory(text, 64)
    assert build_peak(factory, vectors, 10_000, shards) <= build_peak(factory, vectors, 10_000)
    assert build_peak(factory, 2 * vectors, 10_000) >= build_peak(factory, vectors, 10_000)
    assert index_bytes(factory, 2 * vectors) > index_bytes(factory, vectors)
    assert index_bytes(factory, vectors, shards) >= index_bytes(factory, vectors)


def test_rates_are_given_by_name() -> None:
    assert given_rates(["encoder=4e14"])["encoder"].value == 4e14
    for wrong in ("encode=1", "encoder=fast", "encoder=0", "encoder=-1", "encoder=inf", "encoder"):
        with pytest.raises(ConfigError, match="--rate"):
            given_rates([wrong])


def test_time_follows_its_rates() -> None:
    slow, fast = reference_rates(), {**reference_rates(), **given_rates(["encoder=1.7e14", "chunking=2e7"])}
    rows = list(zip(plan_rows([WIKIPEDIA], slow), plan_rows([WIKIPEDIA], fast), strict=True))
    assert [row.stage for row, _ in rows] == ["chunk", "embed", *["index", "search"] * 4]
    for before, after in rows[:2]:
        assert before.seconds / after.seconds == pytest.approx(1000)
        assert (before.disk, before.memory) == (after.disk, after.memory)
    assert rows[1][0].disk == 21_015_324 * 768 * 2
    assert all(before.seconds == after.seconds for before, after in rows if before.stage == "index")


def study(tmp_path: Path) -> dict[str, object]:
    return {
        "study": "s",
        "data_root": str(tmp_path / "raw"),
        "resources_dir": str(tmp_path / "resources"),
        "datasets": {
            "nq": {"reader": "nq", "path": "nq", "max_train": 30, "max_test": 20},
            "qasper": {"reader": "qasper", "path": "qasper", "max_train": 4, "max_test": 3},
        },
        "corpora": {"wiki": {"reader": "dpr_passages", "path": "wiki"}},
        "chunkings": {"words100": {"passage_words": 100}},
        "retrievers": {"small": {"query_model": str(tmp_path / "model")}, "bm25": {"kind": "bm25"}},
        "indexes": {"graph": {"preset": "hnsw"}},
        "retrievals": {
            "dense": {"retriever": "small", "index": "graph", "corpus": "wiki", "chunking": "words100"},
            "sparse": {"retriever": "bm25", "corpus": "wiki", "chunking": "words100"},
        },
        "models": {"m": {"family": "gpt", "path": "m", "size": "1B"}},
        "methods": {"lora": {"kind": "lora"}},
        "grid": [{"retrievals": ["dense", "sparse"]}],
    }


def test_a_study_is_counted_from_what_is_there(tmp_path: Path) -> None:
    config = load_config(study(tmp_path))
    collections, notes = study_collections(config)
    wiki, by_words = collections
    assert (by_words.name, by_words.kind, by_words.shape, by_words.indexes) == ("wiki/words100, bm25", "bm25", None, {})
    assert (by_words.passages, by_words.queries) == (wiki.passages, wiki.queries)
    untrained = config.model_copy(update={"methods": {"lora": ZeroshotMethod(kind="zeroshot")}})
    assert study_collections(untrained)[0][0].queries == 20, "nothing is searched for what nothing is trained on"
    assert (wiki.passages, wiki.queries, sorted(wiki.indexes)) == (21_015_324, 50, ["graph"])
    missing = [f"qasper/{split}/words100, {name}" for name in ("small", "bm25") for split in ("train", "test")]
    assert [note.split(":")[0] for note in notes] == missing, "every search is named"
    assert wiki.counted.startswith("official")
    assert wiki.shape is not None
    assert wiki.shape.source == "BERT-base"
    assert "no raw files of qasper/train" in notes[0]

    (tmp_path / "raw" / "qasper").mkdir(parents=True)
    for split, size in (("train", 60_000), ("test", 30_000)):
        (tmp_path / "raw" / "qasper" / f"qasper-{split}-v0.3.json").write_text("x" * size)
    (tmp_path / "model").mkdir()
    shape = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 32}
    (tmp_path / "model" / "config.json").write_text(json.dumps(shape))
    collections, notes = study_collections(config)
    assert "wiki" in notes[0]
    assert "--passages" in notes[0]
    qasper, tested = (found for found in collections if found.kind == "dense")
    assert (qasper.passages, qasper.queries, qasper.indexes) == (100, 4, {})
    assert (tested.passages, tested.queries, tested.indexes) == (50, 3, {})
    assert qasper.shape is not None
    assert (qasper.shape.width, qasper.shape.source) == (16, str(tmp_path / "model"))

    collections, _ = study_collections(config, passages=1234)
    assert collections[0].passages == 1234
    made = Path(Paths.of(config).passages("wiki", "words100"))
    write_parquet(made, pd.DataFrame({"passage_id": ["a", "b"]}))
    collections, _ = study_collections(config, passages=1234)
    assert (collections[0].passages, collections[0].counted) == (2, str(made))


@pytest.mark.parametrize(
    ("retriever", "name", "said", "rests_on"),
    [
        ({"kind": "bm25"}, "other", "BM25 in memory, no vectors: 10 queries, 7 each", "words, scores"),
        ({"kind": "gold"}, "other", "no vectors, then the answer in its passages: 10 queries", "words, scores"),
        ({"kind": "random"}, "other", "random passages, nothing is searched: 10 queries", "nothing"),
        ({"kind": "degraded", "base": "bm25"}, "bm25", "BM25 in memory", "words, scores"),
    ],
)
def test_searches_without_vectors_are_planned(
    tmp_path: Path, retriever: dict[str, Any], name: str, said: str, rests_on: str
) -> None:
    """2,000,000 words at 1e6 words/s, and 10 questions about 20,000 passages each at 1e5 passages/s."""
    values = study(tmp_path)
    values["datasets"] = {"nq": {"reader": "nq", "path": "nq", "max_train": 7, "max_test": 3}}
    values["retrievers"]["other"] = retriever
    values["retrievals"]["sparse"] |= {"retriever": "other", "top_k": 7}
    values["grid"] = [{"retrievals": ["sparse"]}]
    collections, notes = study_collections(load_config(values), passages=20_000)
    assert not notes
    rates = {**reference_rates(), **given_rates(["words=1e6", "scores=1e5"])}
    chunk, search = plan_rows(collections, rates)
    assert (chunk.collection, search.collection) == (f"wiki/words100, {name}",) * 2
    assert (chunk.stage, search.stage, search.rests_on) == ("chunk", "search", rests_on)
    assert said in search.what
    assert search.seconds == pytest.approx(0 if rests_on == "nothing" else 2 + 10 * 20_000 / 1e5)
    assert search.disk > 0


def test_the_command_prints_a_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study(tmp_path)))
    assert main(["plan", "--configfile", str(file), "--passages", "1_000_000"]) == 0
    printed = capsys.readouterr().out
    for expected in ("wiki/words100, small (count: given)", "72 B/vector", "IVF4194304", "29.2 TB", "Rates:"):
        assert expected in printed
    assert main(["plan", "--configfile", str(file), "--study-only", "--json", "--rate", "encoder=1e12"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["rates"]["encoder"] == {"value": 1e12, "unit": plan["rates"]["encoder"]["unit"], "source": "given"}
    assert {row["collection"] for row in plan["rows"]} == {"wiki/words100, small", "wiki/words100, bm25"}
    assert main(["plan", "--configfile", str(file), "--rate", "speed=1"]) == 1
    assert "no rate 'speed'" in capsys.readouterr().err


def test_the_plan_imports_no_torch(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study(tmp_path)))
    code = "import sys; from retrotune.cli import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, "plan", "--configfile", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (64_800_000_000, "64.8 GB"), (29.2e12, "29.2 TB")]
)
def test_bytes_have_units(count: float, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "0.5 s"), (90, "1.5 min"), (7200, "2 h"), (86400 * 3, "3 days"), (3.2e9, "101 years")]
)
def test_times_have_units(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text
