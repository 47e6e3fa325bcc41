"""DPR's answer match, evidence paragraphs, and the controls: gold, random, degraded."""

import logging
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dataset_cases import write_split
from hypothesis import given
from hypothesis import strategies as st
from neighbor_cases import cache_questions, cache_texts

from retrotune.data.datasets.base import Example
from retrotune.errors import RetrievalError
from retrotune.preparing.examples import load_examples, with_references
from retrotune.retrieval.caches.questions import load_neighbors
from retrotune.retrieval.caches.texts import load_pretraining_neighbors
from retrotune.retrieval.caches.verify import verify_cache
from retrotune.retrieval.search import controls
from retrotune.retrieval.search.answers import answer_tokens, evidence_places, holds_answer
from retrotune.retrieval.search.controls import degraded_hits, random_hits
from retrotune.retrieval.search.finding import Pool
from retrotune.runtime.files import read_json, write_parquet
from retrotune.runtime.log import logger
from retrotune.study.config import CorpusEntry, RetrieverEntry, load_config

BM25 = RetrieverEntry(kind="bm25")


# DPR's match ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "answers", "held"),
    [
        ("It was built in 1889 by Gustave Eiffel.", ["gustave eiffel"], True),
        ("It was built in 1889 by Gustave Eiffel.", ["Eiffel Gustave"], False),
        ("It was built in 1889 by Gustave Eiffel.", ["1889 by"], True),
        ("It was built in 1889.", ["188"], False),  # tokens, not characters
        ("It was built in 18 89.", ["1889"], False),
        ("The U.S. won", ["U.S."], True),
        ("The U.S. won", ["US"], False),  # "u", ".", "s", "."
        ("the well-known man", ["well known"], False),  # the hyphen is a token of its own
        ("the well-known man", ["well - known"], True),
        ("Caf\u00e9 M\u00fcller", ["Cafe\u0301 mu\u0308ller"], True),  # composed and decomposed
        ("Cafe Muller", ["Caf\u00e9"], False),  # marks count
        ("one\n\ttwo", ["one two"], True),
        ("costs $5", ["$5"], True),
        ("costs 5", ["$5"], False),
        ("anything", ["", "  ", "\u200b"], False),
        ("anything", [], False),
        ("", ["a"], False),
        ("\u0986\u09ae\u09bf \u09ac\u09be\u0982\u09b2\u09be", ["\u09ac\u09be\u0982\u09b2\u09be"], True),
    ],
)
def test_answers_in_passages(text: str, answers: list[str], held: bool) -> None:
    assert holds_answer(text, answers) == held


def dpr(text: str, answers: list[str]) -> bool:
    """`has_answer` as DPR computes it: windows of the passage's tokens against the answer's."""
    tokens = answer_tokens(text)
    for wanted in map(answer_tokens, answers):
        starts = range(len(tokens) - len(wanted) + 1)
        if wanted and any(tokens[start : start + len(wanted)] == wanted for start in starts):
            return True
    return False


@given(st.text(alphabet="aB1 .-\u00e9\u0301\u03a3\n", max_size=25), st.text(alphabet="aB1 .-\u00e9\u03a3", max_size=4))
def test_the_match_is_that_of_token_windows(text: str, answer: str) -> None:
    assert holds_answer(text, [answer]) == dpr(text, [answer])


def test_tokens() -> None:
    assert answer_tokens("It's 3.5\u00a0km, na\u00efve_x") == [
        "it", "'", "s", "3", ".", "5", "km", ",", "nai\u0308ve", "_", "x",
    ]  # fmt: skip


def test_evidence_that_passages_cut() -> None:
    texts = ["one two three four.", "five six seven eight.", "nine ten."]
    assert evidence_places(texts, ["Five six"]) == [1]
    assert evidence_places(texts, ["four. five six seven eight. nine"]) == [1]  # little of the others
    assert evidence_places(texts, ["four. five six"]) == [0, 1]  # half of it in each
    assert evidence_places(texts, ["six seven eight. nine ten."]) == [1, 2]
    assert evidence_places(texts, ["seven nine", "not there", ""]) == []
    assert evidence_places(["a b", "", "c d"], ["c d"]) == [2]
    assert evidence_places(texts, ["one two", "nine ten.", "ten."]) == [2, 0]  # most of it first


# random and degraded -------------------------------------------------------------------------------------------------
def pools(*sizes: int) -> list[Pool]:
    return [Pool(range(size)) for size in sizes]


def test_random_passages_depend_on_the_question_alone() -> None:
    keys = [f"q{number}" for number in range(50)]
    rows, scores = random_hits(keys, pools(*[30] * 50), 5, seed=3)
    assert all(len(set(row)) == 5 for row in rows.tolist())
    assert not scores.any()
    for number in (0, 7, 49):
        alone, _ = random_hits(keys[number : number + 1], pools(30), 5, seed=3)
        assert alone[0].tolist() == rows[number].tolist()
    assert random_hits(keys, pools(*[30] * 50), 5, seed=4)[0].tolist() != rows.tolist()
    fewer, _ = random_hits(keys, pools(*[30] * 50), 2, seed=3)
    assert fewer.tolist() == rows[:, :2].tolist(), "a smaller k keeps the first ones"


def test_random_passages_are_spread_evenly() -> None:
    keys = [f"q{number}" for number in range(4000)]
    rows, _ = random_hits(keys, pools(*[10] * 4000), 3, seed=0)
    for column in rows.T:
        counts = Counter(column.tolist())
        assert set(counts) == set(range(10))
        assert max(abs(count - 400) for count in counts.values()) < 90  # 4.7 standard deviations


def test_a_small_pool_gives_all_it_has() -> None:
    rows, scores = random_hits(["a", "b"], [Pool([7, 9]), Pool(range(100), lambda row: row in (4, 5, 6))], 3, seed=0)
    assert (sorted(rows[0].tolist()), sorted(rows[1].tolist())) == ([-1, 7, 9], [4, 5, 6])
    assert scores[0].tolist() == [0, 0, -np.inf]


@pytest.fixture
def hits() -> Any:
    rows = np.tile(np.arange(10, 20), (400, 1))
    rows[0, 6:] = -1
    return rows, np.where(rows < 0, -np.inf, np.linspace(1, 0.5, 10)).astype(np.float32)


def test_degraded_at_its_ends(hits: Any) -> None:
    keys = [f"q{number}" for number in range(400)]
    same = degraded_hits(hits, keys, pools(*[1000] * 400), 0.0, seed=1)
    assert (same[0].tolist(), same[1].tolist()) == (hits[0].tolist(), hits[1].tolist())
    rows, scores = degraded_hits(hits, keys, pools(*[1000] * 400), 1.0, seed=1)
    assert not (set(rows[rows >= 0].tolist()) & set(range(10, 20)))
    assert ((rows >= 0) == (hits[0] >= 0)).all()
    assert not scores[rows >= 0].any()
    assert all(len(set(row)) == 10 for row in rows[1:].tolist())


@pytest.mark.parametrize("share", [0.1, 0.25, 0.29, 0.5, 0.77])
def test_degraded_shares(hits: Any, share: float) -> None:
    keys = [f"q{number}" for number in range(400)]
    rows, scores = degraded_hits(hits, keys, pools(*[1000] * 400), share, seed=1)
    changed = (rows != hits[0]).sum(axis=1)
    found = (hits[0] >= 0).sum(axis=1)
    low, high = np.floor(np.round(found * share, 9)), np.ceil(np.round(found * share, 9))
    assert ((changed == low) | (changed == high)).all(), "the exact number, or the next"
    assert abs(changed[1:].mean() - 10 * share) < 0.13  # 5 standard errors at most
    assert (scores[rows != hits[0]] == 0).all()
    assert (scores[rows == hits[0]] == hits[1][rows == hits[0]]).all()


def test_a_larger_share_replaces_the_same_and_more(hits: Any) -> None:
    keys = [f"q{number}" for number in range(400)]
    before = hits[0]
    for share in (0.1, 0.2, 0.35, 0.6, 0.9, 1.0):
        rows, _ = degraded_hits(hits, keys, pools(*[1000] * 400), share, seed=1)
        replaced = before != hits[0]
        assert (rows[replaced] == before[replaced]).all()
        before = rows


def test_degraded_with_too_few_others(hits: Any, caplog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.WARNING, logger="retrotune")
    rows, _ = degraded_hits((hits[0][1:2], hits[1][1:2]), ["q"], [Pool(range(8, 21))], 1.0, seed=0)
    assert set(rows[0].tolist()) >= {8, 9, 20}
    assert (rows[0] == hits[0][1]).sum() == 7
    assert "7 neighbors could not be replaced" in caplog.text


# in caches -----------------------------------------------------------------------------------------------------------
PASSAGES = [
    ("d0", "the tower was built by Ada in 1880"),
    ("d0", "the tower burned down"),
    ("d0", "Ada lived in Paris. She never returned"),
    ("d1", "rivers run to the sea"),
    ("d1", "Ada wrote of rivers"),
    ("d2", "the mill was built by Bob"),
]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    frame = pd.DataFrame(PASSAGES, columns=["doc_id", "text"])
    frame.insert(0, "passage_id", [f"p{row}" for row in range(len(frame))])
    frame.insert(2, "title", "Ada")  # titles do not count as holding an answer
    write_parquet(tmp_path / "passages.parquet", frame)
    examples = [
        Example("q0", "Who built the tower?", ("Ada", "Ada Lindqvist"), "d0"),
        Example("q1", "Who wrote of rivers?", ("Ada",), "d1", evidence=("rivers run to the sea",)),
        Example("q2", "Who built the mill?", ("Bob",), "d2"),
        Example("q3", "Who sold the mill?", ("Eve",), "d2"),
    ]
    test, references = write_split(tmp_path / "test.parquet", examples)
    assert with_references(load_examples(test), references) == examples
    made = {name: tmp_path / f"{name}.parquet" for name in ("passages", "out")}
    return {**made, "test": test, "references": references}


def cached(files: dict[str, Path], own: bool, retriever: RetrieverEntry, k: int, **more: Any) -> dict[str, list[str]]:
    shutil.rmtree(files["out"].with_suffix(""), ignore_errors=True)  # blocks that were found would be kept
    if retriever.searching.kind == "gold":
        more["references"] = files["references"]
    cache_questions(files["test"], files["passages"], retriever, k, own, files["out"], **more)
    return {key: [passage.passage_id for passage in ranked] for key, ranked in load_neighbors(files["out"]).items()}


def test_gold_in_a_corpus(files: dict[str, Path]) -> None:
    gold = cached(files, False, RetrieverEntry(kind="gold"), 2)
    assert gold == {"q0": ["p0", "p2"], "q1": ["p4", "p0"], "q2": ["p5"]}
    manifest = read_json(files["out"].with_suffix(".manifest.json"))
    assert (manifest["texts_with_fewer"], manifest["texts_without_passage"]) == (2, 1)
    assert {passage.score for ranked in load_neighbors(files["out"]).values() for passage in ranked} == {1.0}


def test_gold_looks_ever_deeper(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame({"passage_id": [f"n{row}" for row in range(700)], "doc_id": "n", "title": "tower"})
    frame["text"] = "built tower who"
    write_parquet(files["passages"], pd.concat([frame, pd.read_parquet(files["passages"])]))
    expected = cached(files, False, RetrieverEntry(kind="gold"), 2)
    assert (expected["q0"], expected["q2"]) == (["p0", "p2"], ["p5"])
    monkeypatch.setattr(controls, "TEXTS_AT_ONCE", 100)
    assert cached(files, False, RetrieverEntry(kind="gold"), 2) == expected
    monkeypatch.setattr(controls, "GOLD_DEPTH", 50)
    assert "q0" not in cached(files, False, RetrieverEntry(kind="gold"), 2)


def test_gold_in_own_documents_is_the_evidence_else_the_answer(files: dict[str, Path]) -> None:
    assert cached(files, True, RetrieverEntry(kind="gold"), 3) == {"q0": ["p0", "p2"], "q1": ["p3"], "q2": ["p5"]}


def test_random_in_a_corpus_and_in_own_documents(files: dict[str, Path]) -> None:
    random = cached(files, False, RetrieverEntry(kind="random", seed=1), 6)
    assert all(sorted(ids) == [f"p{row}" for row in range(6)] for ids in random.values())
    own = cached(files, True, RetrieverEntry(kind="random", seed=1), 2)
    assert set(own["q0"]) < {"p0", "p1", "p2"}
    assert set(own["q1"]) == {"p3", "p4"}
    assert own["q2"] == own["q3"] == ["p5"]


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("base", [BM25, RetrieverEntry(kind="gold")], ids=["bm25", "gold"])
def test_degraded_caches(files: dict[str, Path], own: bool, base: RetrieverEntry) -> None:
    plain = cached(files, own, base, 1)
    none = cached(files, own, RetrieverEntry(kind="degraded", base=base, share=0), 1)
    every = cached(files, own, RetrieverEntry(kind="degraded", base=base, share=1), 1)
    assert none == plain
    assert set(every) == set(plain)
    for key, ids in every.items():
        only_one = own and key in ("q2", "q3")
        assert (ids == plain[key]) == only_one, "d2 has no other passage"


@pytest.mark.parametrize("name", ["gold", "random", "worse"])
def test_caches_of_controls_are_verified(files: dict[str, Path], name: str) -> None:
    controls = {"gold": {"kind": "gold"}, "random": {"kind": "random"}, "worse": {"kind": "degraded", "base": "bm25"}}
    retrieval = {"chunking": "c", "corpus": "w", "top_k": 2}
    config = load_config(
        {
            "study": "s",
            "datasets": {"nq": {"reader": "nq", "path": "nq"}},
            "corpora": {"w": {"reader": "dpr_passages", "path": "w"}},
            "chunkings": {"c": {}},
            "retrievers": {"bm25": {"kind": "bm25"}, **controls},
            "retrievals": {key: {**retrieval, "retriever": key} for key in controls},
            "models": {"g": {"family": "gpt", "size": "xs", "hub": "some/model"}},
            "methods": {"zeroshot": {"kind": "zeroshot"}},
            "grid": {"retrievals": list(controls)},
        }
    )
    cached(files, False, config.searches_with(name), 2, block_texts=3)
    entry = config.retrievals[name]
    assert verify_cache(files["out"], config, entry) == {"blocks": 2, "texts": 4, "sampled": 4}
    changed = {**config.retrievers, name: RetrieverEntry(kind="random", seed=9)}
    with pytest.raises(RetrievalError, match="were not searched as the study says now"):
        verify_cache(files["out"], config.model_copy(update={"retrievers": changed}), entry)


# text to train on ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["random", "degraded"])
def test_controls_of_training_text_leave_out_the_own_document(tmp_path: Path, kind: Any) -> None:
    pages = [f"page {number} of words" for number in range(12)]
    (tmp_path / "pages.txt").write_text("\n\n".join(pages))
    corpora = {"pages": CorpusEntry(reader="text", path="pages.txt", documents="paragraph")}
    rows = [
        {"passage_id": f"{n}/{part}", "doc_id": f"pages.txt#{n}", "title": "", "text": page}
        for n, page in enumerate(pages)
        for part in range(2)
    ]
    write_parquet(tmp_path / "passages.parquet", pd.DataFrame(rows))
    keys = {"base": BM25, "share": 1.0} if kind == "degraded" else {}
    retriever = RetrieverEntry(kind=kind, **keys)
    where = (corpora, tmp_path, tmp_path / "passages.parquet", "pages")
    cache_texts(*where, retriever, 5, tmp_path / "out.json")
    found = load_pretraining_neighbors(tmp_path / "out.json")
    assert len(found) == 12
    for (doc_id, _), ranked in found.items():
        assert len({passage.passage_id for passage in ranked}) == 5
        assert doc_id.split("#")[1] not in {passage.passage_id.split("/")[0] for passage in ranked}
    if kind == "degraded":  # with another base all is searched again
        other = RetrieverEntry(kind="random", seed=3)
        given = []
        for name, entry in (("out", BM25), ("out", other), ("fresh", other)):
            same = RetrieverEntry(kind=kind, base=entry, share=0.0)
            cache_texts(*where, same, 5, tmp_path / f"{name}.json")
            given.append(load_pretraining_neighbors(tmp_path / f"{name}.json"))
        assert given[0] != given[1] == given[2]
    with pytest.raises(RetrievalError, match="gold needs answers"):
        cache_texts(*where, RetrieverEntry(kind="gold"), 5, tmp_path / "out.json")
