"""Neighbor caches of the text that models are pretrained on."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from neighbor_cases import cache_texts

from retrotune.errors import RetrievalError
from retrotune.retrieval.caches import texts
from retrotune.retrieval.caches.texts import load_pretraining_neighbors
from retrotune.retrieval.passages import PassageTable
from retrotune.retrieval.search.finding import among_others
from retrotune.retrieval.search.ranking import best_rows
from retrotune.retrieval.search.sparse import SparseSearcher
from retrotune.runtime.files import read_json, write_parquet
from retrotune.study.config import CorpusEntry, RetrieverEntry

BM25 = RetrieverEntry(kind="bm25")


@pytest.fixture
def text(tmp_path: Path) -> dict[str, Any]:
    """Two corpora of one file each; `pages` is also what is retrieved from."""
    pages = ["red fox red fox", "red hen blue hen", "blue cow red fox", "green ant"]
    (tmp_path / "pages.txt").write_text("\n\n".join(pages))
    (tmp_path / "quizzes.txt").write_text("where is the red fox\n\nwhere is the green ant")
    corpora = {
        name: CorpusEntry(reader="text", path=f"{name}.txt", documents="paragraph") for name in ("pages", "quizzes")
    }
    rows = [
        {"passage_id": f"{n}/{part}", "doc_id": f"pages.txt#{n}", "title": "", "text": piece}
        for n, page in enumerate(pages)
        for part, piece in enumerate([page[: len(page) // 2], page[len(page) // 2 :]])
    ]
    write_parquet(tmp_path / "passages.parquet", pd.DataFrame(rows))
    return {"root": tmp_path, "corpora": corpora, "passages": tmp_path / "passages.parquet"}


def pretrain_cache(text: dict[str, Any], chunk_length: int, top_k: int, tokenizer: Path | str = "none") -> dict:
    out = text["root"] / "out.json"
    corpora = (text["corpora"], text["root"], text["passages"], "pages")
    cache_texts(*corpora, BM25, top_k, out, tokenizer, chunk_length)
    return {key: [p.passage_id for p in ranked] for key, ranked in load_pretraining_neighbors(out).items()}


def test_own_passages_are_left_out(text: dict[str, Any]) -> None:
    hits = pretrain_cache(text, 0, 2)
    assert set(hits) == {
        *((f"pages/pages.txt#{n}", 0) for n in range(4)),
        *((f"quizzes/quizzes.txt#{n}", 0) for n in (0, 1)),
    }
    for (doc_id, _), ranked in hits.items():
        assert len(ranked) == 2
        if doc_id.startswith("pages/"):
            assert not any(passage.split("/")[0] == doc_id.split("#")[1] for passage in ranked)
    assert hits["pages/pages.txt#0", 0][0] == "2/1"
    assert hits["quizzes/quizzes.txt#0", 0][:2] == ["0/0", "0/1"]


def test_filter_equals_brute_force_whatever_is_fetched(text: dict[str, Any]) -> None:
    searcher = SparseSearcher(PassageTable(text["passages"]))
    doc_of_row = np.arange(8) // 2
    encoded = searcher.encode(["red fox", "blue hen", "green ant", "cow"])
    own = np.array([0, 1, -1, 2])
    every = searcher.score(encoded, np.arange(8))
    for k in range(1, 8):
        rows, scores = among_others(searcher, encoded, own, doc_of_row, k)
        for number in range(4):
            others = np.flatnonzero(doc_of_row != own[number])
            expected = others[best_rows(every[number][others], k)]
            kept = rows[number][rows[number] >= 0]
            np.testing.assert_array_equal(kept, expected)
            np.testing.assert_array_equal(scores[number][: len(kept)], every[number][expected])


def test_chunks_are_the_tokenizers(text: dict[str, Any]) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["red", "fox", "hen", "blue", "cow", "green", "ant", "where", "is", "the", "[UNK]", "[BOS]"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="[BOS] $A", special_tokens=[("[BOS]", 11)])
    tokenizer.save(str(text["root"] / "tokenizer.json"))
    made = list(texts.pretraining_texts(text["corpora"], text["root"], text["root"] / "tokenizer.json", 3))
    assert made[:3] == [
        ("pages/pages.txt#0", 0, "red fox red"),
        ("pages/pages.txt#0", 1, "fox"),
        ("pages/pages.txt#1", 0, "red hen blue"),
    ]
    hits = pretrain_cache(text, 3, 1, text["root"] / "tokenizer.json")
    assert set(hits) == {(doc_id, chunk) for doc_id, chunk, _ in made}
    assert hits["quizzes/quizzes.txt#1", 1] == ["3/1"]
    texts.check_tokenizer(text["root"] / "out.json", text["root"] / "tokenizer.json")
    tokenizer.add_tokens(["owl"])
    tokenizer.save(str(text["root"] / "other.json"))
    with pytest.raises(RetrievalError, match=r"found for chunks that another tokenizer than .*other\.json cuts"):
        texts.check_tokenizer(text["root"] / "out.json", text["root"] / "other.json")


def test_corpus_of_one_document_has_no_neighbors(text: dict[str, Any]) -> None:
    frame = pd.read_parquet(text["passages"])
    write_parquet(text["passages"], frame[frame.doc_id == "pages.txt#0"])
    hits = pretrain_cache(text, 0, 2)
    assert ("pages/pages.txt#0", 0) not in hits
    assert hits["pages/pages.txt#1", 0] == ["0/0", "0/1"]
    manifest = read_json(text["root"] / "out.json")
    assert (manifest["texts"], manifest["texts_without_passage"], manifest["hits"]) == (6, 1, 10)


class Shallow:
    """An index of 40 passages that finds at most `depth` of them, lower rows first, as few lists searched do."""

    size = 40

    def __init__(self, depth: int) -> None:
        self.depth, self.fetched = depth, list[int]()

    def search(self, encoded: Any, k: int) -> tuple[Any, Any]:
        self.fetched.append(k)
        rows = np.arange(k)[None].repeat(len(encoded), axis=0)
        return np.where(rows < self.depth, rows, -1), np.where(rows < self.depth, -rows, -np.inf).astype(np.float32)


def test_an_index_that_finds_fewer_leaves_minus_one() -> None:
    """Documents of four passages; text 0 is document 0, which has all but two of the six passages that are found."""
    searcher = Shallow(6)
    own = np.array([0, 1, -1])
    rows, scores = among_others(searcher, np.zeros((3, 1)), own, np.arange(40) // 4, 4)
    assert rows.tolist() == [[4, 5, -1, -1], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert np.isneginf(scores[0, 2:]).all()
    assert searcher.fetched == [8], "what an index has not found at 8, it does not find at 32"


class FirstRowLast(Shallow):
    """Finds rows 7 to 0, then those from 8 on."""

    def search(self, encoded: Any, k: int) -> tuple[Any, Any]:
        order, scores = np.array([*range(7, -1, -1), *range(8, 40)]), super().search(encoded, k)[1]
        return order[:k][None].repeat(len(encoded), axis=0), scores


def test_the_first_row_is_a_passage_like_others() -> None:
    """All that is fetched first is the text's own document, the last of it row 0."""
    rows, scores = among_others(FirstRowLast(40), np.zeros((1, 1)), np.array([0]), np.arange(40) // 8, 4)
    assert rows.tolist() == [[8, 9, 10, 11]]
    assert scores.tolist() == [[-8, -9, -10, -11]]


def test_more_is_fetched_while_there_is_more() -> None:
    searcher = Shallow(40)
    rows, _ = among_others(searcher, np.zeros((2, 1)), np.array([0, -1]), np.arange(40) // 12, 5)
    assert rows.tolist() == [[12, 13, 14, 15, 16], [0, 1, 2, 3, 4]]
    assert searcher.fetched == [10, 40]
