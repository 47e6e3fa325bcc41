"""Passages that are chunks of tokens: RETRO's database, chunk to chunks, with what follows each."""

import json

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from retrotune.data.corpora.tokens import chunk_spans, open_tokenizer, split_tokens
from retrotune.errors import ConfigError, DataError
from retrotune.preparing.chunking import chunk_corpus, chunk_documents
from retrotune.retrieval.caches.texts import (
    cache_pretraining_neighbors,
    corpus_documents,
    load_pretraining_neighbors,
    pretraining_texts,
)
from retrotune.retrieval.passages import PassageTable
from retrotune.runtime.files import read_parquet, write_parquet
from retrotune.study.config import ChunkingEntry, CorpusEntry, RetrieverEntry, load_config
from retrotune.study.resolve import resolve
from retrotune.study.stages import CacheTextNeighborsParams, ChunkCorpusParams, ChunkParams

PAGES = [
    "the red fox ran home and the old hen slept well tonight",
    "the red fox ran home but nobody saw the blue cow again",
    "a green ant carried seven leaves up the tall tree",
]


def byte_level(trim: bool) -> Tokenizer:
    """Pieces of single bytes; `trim` leaves the space before a word out of its offsets, as GPT-2's tokenizer does."""
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if trim:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def words() -> Tokenizer:
    """A piece per word."""
    known = dict.fromkeys(["[UNK]", *" ".join(PAGES).split()])
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(known)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


@given(st.text(max_size=40), st.integers(1, 7), st.booleans())
def test_passages_joined_are_the_text(text, length, trim):
    text = text.strip()
    tokenizer = byte_level(trim)
    (passages,) = split_tokens(tokenizer, [text], length)
    assert "".join(passages) == text
    assert all(passage.strip() for passage in passages)
    assert len(passages) <= -(-len(text.encode()) // length)


def test_spans_are_whole_chunks():
    (spans,) = chunk_spans(words(), [PAGES[2]], 4)
    assert [PAGES[2][start:end] for start, end in spans] == ["a green ant carried", "seven leaves up the", "tall tree"]
    (passages,) = split_tokens(words(), [PAGES[2]], 4)
    assert passages == ["a green ant carried ", "seven leaves up the ", "tall tree"]


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "pages.txt").write_text("\n\n".join(PAGES))
    words().save(str(tmp_path / "tokenizer.json"))
    return CorpusEntry(reader="text", path="pages.txt", documents="paragraph")


def test_each_chunk_gets_chunks_of_other_documents_and_what_follows_them(tmp_path, corpus):
    tokenizer, out = tmp_path / "tokenizer.json", tmp_path / "neighbors.json"
    cut = ChunkCorpusParams(corpus=corpus, passage_tokens=4)
    chunk_corpus(cut, tmp_path, tmp_path / "passages.parquet", tokenizer)
    passages = read_parquet(tmp_path / "passages.parquet")
    asked = list(pretraining_texts({"pages": corpus}, tmp_path, tokenizer, 4))
    assert [text.strip() for text in passages["text"]] == [text for _, _, text in asked]
    assert [f"pages/{name}" for name in passages["passage_id"]] == [f"{doc_id}/{chunk}" for doc_id, chunk, _ in asked]
    params = CacheTextNeighborsParams(
        retriever=RetrieverEntry(kind="bm25"), top_k=2, source="pages", corpora={"pages": corpus}, continuation=True
    )
    cache_pretraining_neighbors(params, tmp_path, tmp_path / "passages.parquet", tokenizer, 4, out)
    found = load_pretraining_neighbors(out)
    assert list(found) == [(doc_id, chunk) for doc_id, chunk, _ in asked]
    first, last = found["pages/pages.txt#0", 0][0], found["pages/pages.txt#1", 0][0]
    assert (first.passage_id, first.text) == ("pages.txt#1/0", "the red fox ran home but nobody saw ")
    assert (last.passage_id, last.text) == ("pages.txt#0/0", "the red fox ran home and the old ")
    documents = {document.doc_id: document.text for document in corpus_documents({"pages": corpus}, tmp_path)}
    for (doc_id, _), ranked in found.items():
        for passage in ranked:
            own = f"pages/{passage.passage_id.rsplit('/', 1)[0]}"
            assert own != doc_id
            assert passage.text in documents[own]


def test_documents_and_dpr_articles_are_cut_too(tmp_path, corpus):
    frame = {"doc_id": ["a"], "title": ["T"], "text": [PAGES[0]]}
    write_parquet(tmp_path / "documents.parquet", pd.DataFrame(frame))
    tokenizer = tmp_path / "tokenizer.json"
    chunk_documents(ChunkParams(passage_tokens=5), tmp_path / "documents.parquet", tmp_path / "p.parquet", tokenizer)
    expected = ["the red fox ran home ", "and the old hen slept ", "well tonight"]
    assert read_parquet(tmp_path / "p.parquet")["text"].tolist() == expected
    first, second = PAGES[0][:20], PAGES[0][21:]
    rows = [f"1\t{first} {second[:3]}\tT", f"2\t{second[4:]}\tT"]
    (tmp_path / "psgs.tsv").write_text("\n".join(["id\ttext\ttitle", *rows]) + "\n")
    articles = CorpusEntry(reader="dpr_passages", path="psgs.tsv")
    cut = ChunkCorpusParams(corpus=articles, passage_tokens=5)
    chunk_corpus(cut, tmp_path, tmp_path / "q.parquet", tokenizer)
    table = PassageTable(tmp_path / "q.parquet")
    assert table.column("doc_id").tolist() == ["T", "T", "T"]
    assert table.given([0], continuation=True)["text"].to_pylist() == [expected[0] + expected[1]]


def test_a_tokenizer_that_is_none_is_named(tmp_path):
    with pytest.raises(DataError, match=r"t\.json: no such tokenizer"):
        open_tokenizer(tmp_path / "t.json")
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(DataError, match=r"t\.json: damaged"):
        open_tokenizer(tmp_path / "t.json")


def test_a_chunking_has_one_unit():
    assert ChunkingEntry().passage_words == 100
    tokens = ChunkingEntry(passage_tokens=64, tokenizer="t")
    assert tokens.passage_words is None
    for entry in (tokens, ChunkingEntry(), ChunkingEntry(passage_words=20)):
        assert ChunkingEntry.model_validate_json(json.dumps(entry.model_dump(mode="json"))) == entry
        assert ChunkingEntry.model_validate(entry.given()) == entry
    for wrong in ({"passage_words": None}, {"passage_words": 9, "passage_tokens": 9, "tokenizer": "t"}):
        with pytest.raises(ValidationError, match="set either passage_words or passage_tokens"):
            ChunkingEntry.model_validate(wrong)
    for wrong in ({"passage_tokens": 9}, {"tokenizer": "t"}):
        with pytest.raises(ValidationError, match="go together"):
            ChunkingEntry.model_validate(wrong)


def test_the_tokenizer_of_a_chunking_is_an_entry():
    study = {
        "study": "s",
        "datasets": {"nq": {"reader": "nq", "path": "nq"}},
        "corpora": {"wiki": {"reader": "dpr_passages", "path": "w.tsv"}},
        "chunkings": {"chunks64": {"passage_tokens": 64, "tokenizer": "world"}},
        "tokenizers": {"word": {"corpora": ["wiki"]}},
        "retrievers": {"bm25": {"kind": "bm25"}},
        "retrievals": {
            "r": {"retriever": "bm25", "corpus": "wiki", "chunking": "chunks64", "gpt": {"num_contexts": 1}}
        },
        "models": {"g": {"family": "gpt", "size": "xs", "hub": "some/model"}},
        "methods": {"zeroshot": {"kind": "zeroshot"}},
        "grid": {"retrievals": ["r"]},
    }
    with pytest.raises(
        ConfigError, match="chunkings.chunks64.tokenizer: no entry 'world' in `tokenizers`; did you mean"
    ):
        load_config(study)
    study["chunkings"]["chunks64"]["tokenizer"] = "word"
    config = load_config(study)
    for stage in ("chunk_corpus", "chunk_documents"):
        used = resolve(config, stage, {"corpus": "wiki", "chunking": "chunks64"})
        assert (used.passage_words, used.passage_tokens) == (None, 64)
    assert "passage_tokens" not in resolve(config, "train_tokenizer", {"tokenizer": "word"}).text()
