"""Measuring retrieval on hand-made passages, and its table and figure."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from dataset_cases import SPLITS, prepare_split, split_paths, write_split

from retrotune.data.datasets.base import Example
from retrotune.errors import DataError, ResultError
from retrotune.preparing.chunking import chunk_corpus, chunk_documents
from retrotune.report.retrieval_quality import (
    load_quality,
    quality_table,
    recall_chart,
    recall_points,
    report_retrieval,
)
from retrotune.report.tables.render import to_markdown
from retrotune.report.tables.table import Measured
from retrotune.retrieval.passages import PassageTable
from retrotune.retrieval.search.answers import evidence_places
from retrotune.runtime.files import read_json, sha256, write_json, write_parquet
from retrotune.scoring import quality as measuring
from retrotune.scoring.quality import measure_retrieval
from retrotune.study.config import CorpusEntry, RetrieverEntry
from retrotune.study.paths import TABLE_FORMS
from retrotune.study.stages import ChunkCorpusParams, ChunkParams, MeasureRetrievalParams

BM25 = RetrieverEntry(kind="bm25")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Six passages in two documents; `cats` is asked for, passages further down have fewer of it."""
    texts = ["cats cats cats", "cats cats and Bob", "cats sleep. Ann says", "nothing", "Ann is here", "and so on"]
    frame = pd.DataFrame({"doc_id": ["a"] * 4 + ["b"] * 2, "title": "Ann", "text": texts})
    frame.insert(0, "passage_id", [f"p{row}" for row in range(6)])
    write_parquet(tmp_path / "passages.parquet", frame)
    examples = [
        Example("q0", "cats?", ("Bob",), "a", evidence=("cats sleep. Ann says",)),
        Example("q1", "cats!", ("Ann",), "a", evidence=("cats cats cats", "nothing")),
        Example("q2", "cats", ("Eve",), "a"),
        Example("q3", "here", ("is",), "b", evidence=("a paragraph of a table",)),
    ]
    test, references = write_split(tmp_path / "test.parquet", examples)
    made = {"passages": tmp_path / "passages.parquet", "out": tmp_path / "quality.json"}
    return {"test": test, "references": references, **made}


def measured(files: dict[str, Path], own: bool, depth: int = 100, retriever: RetrieverEntry = BM25) -> dict[str, Any]:
    params = MeasureRetrievalParams(retriever=retriever, depth=depth, own_documents=own)
    inputs = [files[name] for name in ("test", "references", "passages")]
    measure_retrieval(params, "r", "d", *inputs, files["out"])
    return read_json(files["out"])


def values(record: dict[str, Any]) -> dict[str, float]:
    return {name: entry["value"] for name, entry in record["metrics"].items()}


def test_answer_recall_in_a_corpus(files: dict[str, Path]) -> None:
    record = measured(files, own=False)
    # p0, p1, p2 in this order for cats, p4 for here: Bob at rank 2, Ann at 3, Eve nowhere, is at 1
    assert values(record) == {"answer_recall@1": 25.0, "answer_recall@5": 75.0}
    assert (record["depth"], record["questions"], record["passages"]) == (6, 4, 6)
    read = {"examples": "test", "references": "references", "passages": "passages"}
    assert record["inputs"] == {name: sha256(files[key]) for name, key in read.items()}
    assert [record[key] for key in ("retrieval", "dataset", "scale")] == ["r", "d", "0 to 100"]
    entry = record["metrics"]["answer_recall@5"]
    assert entry["n"] == 4
    assert 0 <= entry["ci_low"] <= 75 <= entry["ci_high"] <= 100
    assert values(measured(files, own=False, depth=2)) == {"answer_recall@1": 25.0}


def test_gold_hits_in_own_documents(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    record = measured(files, own=True)
    # evidence of q0 at rank 3, of q1 at rank 1; q2 has none, that of q3 is not in the text
    assert values(record) == {
        "answer_recall@1": 25.0, "gold_hit@1": 50.0, "gold_mrr": pytest.approx((100 / 3 + 100) / 2),
    }  # fmt: skip
    assert (record["depth"], record["metrics"]["gold_mrr"]["n"]) == (4, 2)
    monkeypatch.setattr(measuring, "QUESTIONS_AT_ONCE", 1)
    assert measured(files, own=True) == record


def test_controls_are_measured_too(files: dict[str, Path]) -> None:
    gold = values(measured(files, own=True, retriever=RetrieverEntry(kind="gold")))
    assert gold["gold_hit@1"] == gold["gold_mrr"] == 100.0
    every = values(measured(files, own=False, retriever=RetrieverEntry(kind="random")))
    assert every["answer_recall@5"] <= 75.0
    same = RetrieverEntry(kind="degraded", base=BM25, share=0.0)
    assert values(measured(files, own=True, retriever=same)) == values(measured(files, own=True))


def test_no_questions(files: dict[str, Path]) -> None:
    write_split(files["test"], [])
    with pytest.raises(DataError, match="no questions to measure retrieval with"):
        measured(files, own=False)


# real files ----------------------------------------------------------------------------------------------------------
def test_real_nq_with_bm25(shared: Path, tmp_path: Path) -> None:
    test, references, _ = split_paths(tmp_path, "test")
    files = {"test": test, "references": references, "passages": tmp_path / "p.parquet", "out": tmp_path / "q.json"}
    prepare_split(shared / "data", "nq", "test", tmp_path)
    wikipedia = CorpusEntry(reader="dpr_passages", path="wikipedia")
    chunk_corpus(ChunkCorpusParams(corpus=wikipedia, passage_words=100), shared / "data", files["passages"])
    record = measured(files, own=False, depth=5)
    assert (record["questions"], record["passages"]) == (2400, 9365)
    assert values(record)["answer_recall@5"] == pytest.approx(87.6, abs=0.5)


def test_real_evidence_stands_in_its_paper(shared: Path, tmp_path: Path) -> None:
    paragraphs = []
    for split in SPLITS:
        examples = prepare_split(shared / "data", "qasper", split, tmp_path)
        passages = tmp_path / f"{split}.passages.parquet"
        chunk_documents(ChunkParams(passage_words=100), split_paths(tmp_path, split)[2], passages)
        table = PassageTable(passages)
        paragraphs += [(table, example.doc_id, text) for example in examples for text in example.evidence]
    assert len(paragraphs) > 50
    for table, doc_id, paragraph in paragraphs:
        texts = table.take(table.rows_of(doc_id))["text"].to_pylist()
        places = evidence_places(texts, [paragraph])
        assert places, paragraph
        words = paragraph.split()
        assert words[len(words) // 2] in " ".join(texts[place] for place in places)


# report --------------------------------------------------------------------------------------------------------------
def quality(retrieval_name: str, dataset: str, recalls: dict[int, float], mrr: float | None = None) -> dict[str, Any]:
    metrics = {
        f"answer_recall@{k}": {"value": value, "ci_low": value - 2, "ci_high": value + 2, "n": 50}
        for k, value in recalls.items()
    }
    if mrr is not None:
        metrics["gold_mrr"] = {"value": mrr, "ci_low": None, "ci_high": None, "n": 20}
    measured = {"retrieval": retrieval_name, "dataset": dataset, "questions": 50, "depth": 100, "metrics": metrics}
    return {**measured, "params": {"own_documents": dataset == "qasper"}}


@pytest.fixture
def written(tmp_path: Path) -> list[Path]:
    records = [
        quality("minilm5", "nq", {1: 60.0, 5: 90.0, 20: 97.0}),
        quality("minilm5", "qasper", {1: 20.0, 5: 40.0}, mrr=33.3),
        quality("bm5", "nq", {1: 50.0, 5: 90.0, 20: 95.0}),
    ]
    paths = [tmp_path / f"{number}.json" for number in range(len(records))]
    for path, record in zip(paths, records, strict=True):
        write_json(path, record)
    return paths


def test_quality_table(written: list[Path]) -> None:
    table = quality_table(load_quality(written))
    assert table.columns == ["Dataset", "Retrieval", "Recall@1", "Recall@5", "Recall@20", "Gold MRR"]
    assert [row[:2] for row in table.rows] == [["nq", "minilm5"], ["nq", "bm5"], ["qasper", "minilm5"]]
    assert table.rows[2][2:] == [Measured(20.0, 18.0, 22.0), Measured(40.0, 38.0, 42.0), None, Measured(33.3)]
    text = to_markdown(table)
    assert "| nq | minilm5 | **60.0** ±2.0 | 90.0 ±2.0 | **97.0** ±2.0 | – |" in text
    assert "| nq | bm5 | 50.0 ±2.0 | 90.0 ±2.0 | 95.0 ±2.0 | – |" in text
    assert "| qasper | minilm5 | 20.0 ±2.0 | 40.0 ±2.0 | – | 33.3 |" in text, "a single value is not the best"
    assert "- The best of each dataset is bold." in text
    assert "Intervals: 95 %, over documents (qasper) and questions (nq)." in text
    assert "Test questions: nq 50, qasper 50, 20 with gold." in text
    assert table.rules == {2}


def test_points_and_figure(written: list[Path], tmp_path: Path) -> None:
    measured = load_quality(written)
    frame = recall_points(measured).set_index(["dataset", "retrieval", "k"])
    assert len(frame) == 8
    assert frame.loc[("nq", "bm5", 20)].tolist() == [95.0, 93.0, 97.0]
    report_retrieval(written, tmp_path / "tables", tmp_path / "figures")
    svg = (tmp_path / "figures/retrieval_quality.svg").read_text(encoding="utf-8")
    for word in ("minilm5", "bm5", "nq", "qasper", "answer recall@k", "Intervals: 95 %, over documents"):
        assert word in svg
    assert (tmp_path / "figures/retrieval_quality.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "figures/retrieval_quality.png").read_bytes().startswith(b"\x89PNG")
    written = {path.name for path in (tmp_path / "tables").iterdir()}
    assert written == {f"retrieval_quality.{form}" for form in TABLE_FORMS}


def test_nothing_measured() -> None:
    assert "No retrieval of this study was measured" in json.dumps(recall_chart([]).to_dict())
    assert quality_table([]).rows == []


def test_something_else_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "quality.json", {"metrics": {}})
    with pytest.raises(ResultError, match=r"quality\.json: no measured retrieval; delete it and run"):
        load_quality([tmp_path / "quality.json"])
    (tmp_path / "quality.json").write_text("{")
    with pytest.raises(ResultError, match=r"quality\.json:1: not valid JSON.*run measure_retrieval again"):
        load_quality([tmp_path / "quality.json"])
