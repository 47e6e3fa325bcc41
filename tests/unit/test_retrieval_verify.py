"""`retrotune verify-neighbors`: what was tampered with is found, what only ties or rounds otherwise is not."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from dataset_cases import write_split
from neighbor_cases import cache_questions, cache_texts

from retrotune.cli import main, merged_config
from retrotune.data.datasets.base import Example
from retrotune.retrieval.caches.questions import load_neighbors
from retrotune.retrieval.caches.results import block_name
from retrotune.retrieval.caches.verify import first_difference
from retrotune.runtime.files import read_json, sha256, write_json, write_parquet
from retrotune.study.paths import Paths

WORDS = ("fox", "hen", "cow", "ant", "owl", "bee", "elk")
STUDY = {
    "study": "s",
    "resources_dir": "res",
    "results_dir": "results",
    "data_root": ".",
    "datasets": {"nq": {"reader": "nq", "path": "nq"}, "qasper": {"reader": "qasper", "path": "qasper"}},
    "corpora": {"wiki": {"reader": "text", "path": "wiki.txt", "documents": "paragraph"}},
    "chunkings": {"words": {"passage_words": 5}},
    "retrievers": {"bm25": {"kind": "bm25"}},
    "retrievals": {
        "best": {"retriever": "bm25", "corpus": "wiki", "chunking": "words", "top_k": 3, "gpt": {"num_contexts": 1}}
    },
    "tokenizers": {"t": {"corpora": ["wiki"], "vocab_size": 300}},
    "pretrainings": {
        "reading": {
            "corpora": ["wiki"], "tokenizer": "t", "retrieval": "best", "neighbors_per": "document",
            "sequence_length": 64, "batch_size": 1, "steps": 1,
        }
    },
    "models": {"gpt": {"family": "gpt", "size": "s", "pretraining": "reading"}},
    "methods": {"zeroshot": {"kind": "zeroshot"}},
    "grid": [{"retrievals": ["best"]}],
}  # fmt: skip


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A study of which the neighbor caches are done: open-domain, own documents, and pretraining text."""
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(yaml.safe_dump(STUDY))
    config = merged_config(["s.yaml"], [])
    paths, bm25 = Paths.of(config), config.retrievers["bm25"]
    texts = [f"{one} met {two} near the {three}" for one in WORDS for two in WORDS[:3] for three in WORDS[2:4]]
    documents = [" ".join(texts[row : row + 3]) for row in range(0, len(texts), 3)]
    Path("wiki.txt").write_text("\n\n".join(documents))
    rows = [
        {"passage_id": f"p{row}", "doc_id": f"wiki.txt#{row // 3}", "title": "", "text": text}
        for row, text in enumerate(texts)
    ]
    for source in ("wiki", "qasper/test"):
        write_parquet(paths.passages(source, "words"), pd.DataFrame(rows))
    for dataset, own in (("nq", False), ("qasper", True)):
        asked = [Example(f"q{n}", f"where is {word}", ("x",), f"wiki.txt#{n}") for n, word in enumerate(WORDS)]
        examples, _ = write_split(Path(paths.examples(dataset, "test")), asked)
        passages = Path(paths.passages(config.dataset_source(dataset, "best", "test"), "words"))
        cache_questions(examples, passages, bm25, 3, own, Path(paths.neighbors("best", dataset, "test")), block_texts=3)
    cache_texts(
        {"wiki": config.corpora["wiki"]}, Path(config.raw), Path(paths.passages("wiki", "words")), "wiki", bm25, 3,
        Path(paths.pretraining_neighbors("reading", 0)), block_texts=4,
    )  # fmt: skip
    return {
        "nq": Path(paths.neighbors("best", "nq", "test")),
        "qasper": Path(paths.neighbors("best", "qasper", "test")),
        "text": Path(paths.pretraining_neighbors("reading", 0)),
        "passages": Path(paths.passages("wiki", "words")),
        "examples": Path(paths.examples("nq", "test")),
    }


def verify(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main(["verify-neighbors", *arguments, "--configfile", "s.yaml"])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_a_good_study_has_a_line_per_cache(study, capsys):
    status, out, err = verify(capsys)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"{study['text']}: 4 blocks of 14 texts whole, 14 searched again: equal",
        f"{study['nq']}: 3 blocks of 7 texts whole, 7 searched again: equal",
        f"{study['qasper']}: 3 blocks of 7 texts whole, 7 searched again: equal",
    ]
    assert verify(capsys, "--sample", "2", "--seed", "5")[1].count("2 searched again") == 3
    assert verify(capsys, str(study["nq"]))[1].splitlines() == out.splitlines()[1:2]


def tamper(cache: Path, start: int, text: int, change) -> None:
    """Change hits in a block, and make all checksums again so that they fit."""
    manifest = cache if cache.suffix == ".json" else cache.with_suffix(".manifest.json")
    content = read_json(manifest)
    (record,) = [record for record in content["blocks"] if record["start"] == start]
    path = cache.with_suffix("") / block_name(start, record["rows"])
    with np.load(path, allow_pickle=False) as stored:
        arrays = dict(stored.items())
    change(arrays["rows"][text], arrays["scores"][text])
    np.savez(path, **arrays)
    record["sha256"] = sha256(path)
    write_json(path.with_suffix(".json"), {**read_json(path.with_suffix(".json")), "sha256": sha256(path)})
    write_json(manifest, content)


def other_row(rows, scores):
    rows[2] = 20 if rows[2] != 20 else 19


def other_score(rows, scores):
    scores[0] *= 1.01


def same_row_twice(rows, scores):
    rows[1] = rows[0]


@pytest.mark.parametrize("change", [other_row, other_score, same_row_twice])
def test_a_tampered_row_of_text_is_found(study, capsys, change):
    tamper(study["text"], 4, 1, change)
    status, out, err = verify(capsys)
    assert status == 1
    assert out.count("equal") == 2
    assert f"{study['text']}: document 'wiki/wiki.txt#5', chunk 0: rank" in err
    assert err.splitlines()[-1] == "error: 1 of 3 neighbor caches are not what the study says"


def replace_in_parquet(cache: Path, row: int, passage_id: str, text: str) -> None:
    table = pq.read_table(cache)
    frame = table.to_pandas()
    frame.loc[row, ["passage_id", "text"]] = (passage_id, text)
    write_parquet(cache, frame)
    manifest = cache.with_suffix(".manifest.json")
    write_json(manifest, {**read_json(manifest), "sha256": sha256(cache)})


@pytest.mark.parametrize("where", ["file", "block", "both"])
def test_a_tampered_question_is_found(study, capsys, where):
    if where != "block":
        replace_in_parquet(study["nq"], 5, "p22", "ant met cow near the cow")  # question 1, rank 2: no hen
    if where != "file":
        tamper(study["nq"], 0, 1, lambda rows, scores: rows.__setitem__(2, 22))
    status, out, err = verify(capsys)
    assert status == 1
    assert out.count("equal") == 2
    assert f"{study['nq']}: question 'q1': " in err
    assert ("of its block" in err) == (where != "both")
    assert ("rank 2 has passage row 22" in err) == (where == "both")


def test_what_is_not_as_it_was_is_named(study, capsys):
    block = study["qasper"].with_suffix("") / block_name(3, 3)
    block.write_bytes(block.read_bytes()[:-1])
    assert f"{block}: block is damaged (checksum differs)" in verify(capsys, str(study["qasper"]))[2]
    asked = [Example(f"q{n}", f"where was {word}", ("x",), f"wiki.txt#{n}") for n, word in enumerate(WORDS)]
    write_split(study["examples"], asked)
    assert "texts 0 to 2 were not searched as the study says now" in verify(capsys, str(study["nq"]))[2]
    write_split(study["examples"], [])
    assert "were not searched as the study says now" in verify(capsys, str(study["nq"]))[2]
    with open("wiki.txt", "a") as stream:
        stream.write("\n\none more document")
    assert "there are more texts now than it holds" in verify(capsys, str(study["text"]))[2]


def test_another_study_is_not_satisfied(study, capsys):
    changed = {**STUDY, "retrievals": {"best": {**STUDY["retrievals"]["best"], "top_k": 2}}}
    Path("s.yaml").write_text(yaml.safe_dump(changed))
    assert "3 of 3 neighbor caches are not" in verify(capsys)[2]
    changed = {**STUDY, "retrievals": {"best": {**STUDY["retrievals"]["best"], "continuation": True}}}
    Path("s.yaml").write_text(yaml.safe_dump(changed))
    assert verify(capsys)[2].count("not made with continuation: True") == 3


def test_no_cache_is_an_error(study, capsys):
    assert verify(capsys, "--sample", "-1")[2].startswith("error: --sample -1 --seed 0: give numbers of 0")
    assert "nothing.parquet: no neighbor cache of study s; it has" in verify(capsys, "nothing.parquet")[2]
    for name in ("nq", "qasper", "text"):
        study[name].unlink()
    assert verify(capsys) == (1, "", "error: study s has no neighbor cache yet: run snakemake neighbors\n")


def table_of(*scored: tuple[int, float]):
    """A search that always finds these (row, score) pairs, best first."""

    def find(texts, k):
        rows = np.array([[row for row, _ in scored[:k]]] * len(texts))
        return rows, np.array([[score for _, score in scored[:k]]] * len(texts), dtype=np.float32)

    return find


FOUND = table_of((4, 9.0), (7, 5.0), (2, 5.0), (8, 4.999), (1, 1.0))


@pytest.mark.parametrize(
    ("rows", "scores", "equal"),
    [
        ([4, 7], [9.0, 5.0], True),
        ([4, 2], [9.0, 5.0], True),  # a tie at the last rank
        ([4, 8], [9.0, 5.0], True),  # within the tolerance of one
        ([4, 1], [9.0, 5.0], False),
        ([7, 4], [9.0, 5.0], False),
        ([4, 7], [9.0, 5.1], False),
        ([4, 7], [9.004, 5.002], True),
        ([4, -1], [9.0, -np.inf], False),
        ([4, 99], [9.0, 5.0], False),
    ],
)
def test_ties_may_swap_and_scores_may_round(rows, scores, equal):
    hits = np.array([rows]), np.array([scores], dtype=np.float32)
    assert (first_difference(hits, ["a"], FOUND, 5) is None) == equal


def test_missing_passages_are_equal_to_missing_passages():
    hits = np.array([[4, -1, -1]]), np.array([[9.0, -np.inf, -np.inf]], dtype=np.float32)
    assert first_difference(hits, ["a"], table_of((4, 9.0), (-1, -np.inf), (-1, -np.inf)), 3) is None


def test_a_tampered_text_is_found(study, capsys):
    replace_in_parquet(study["nq"], 5, load_neighbors(study["nq"])["q1"][2].passage_id, "ignore all questions")
    assert "question 'q1': rank 2 of the file is Passage" in verify(capsys, str(study["nq"]), "--sample", "0")[2]
