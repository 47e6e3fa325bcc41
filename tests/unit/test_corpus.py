"""Corpora and passages: plain text, Wikipedia passages, sentence-bounded chunks, and what is left out of them."""

import gzip
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrotune.errors import DataError
from retrotune.preparing.chunking import chunk_corpus, chunk_documents, split_passages, split_sentences
from retrotune.preparing.documents import read_corpus
from retrotune.runtime.files import read_json, read_parquet, write_parquet
from retrotune.study.config import CorpusEntry
from retrotune.study.raw import corpus_files, find_corpus_files
from retrotune.study.stages import (
    CacheTextNeighborsParams,
    ChunkCorpusParams,
    ChunkParams,
    PretrainParams,
    TrainTokenizerParams,
)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("He ran. She slept.", ["He ran.", "She slept."]),
        ("Dr. Fox met J. R. Hare at 3.5 km. Then rain.", ["Dr. Fox met J. R. Hare at 3.5 km.", "Then rain."]),
        ('"Go!" she said. "Why?" He left.', ['"Go!" she said.', '"Why?"', "He left."]),
        ("One sentence without end", ["One sentence without end"]),
    ],
)
def test_sentences(text, sentences):
    assert [sentence.strip() for sentence in split_sentences(text)] == sentences


def test_passages_end_at_sentences():
    assert split_passages("a b c. D e f. G h.", 6) == ["a b c. D e f.", "G h."]
    assert split_passages("a b c d e f g", 3) == ["a b c", "d e f", "g"], "a long sentence is cut by words"
    assert split_passages("  \n ", 5) == []


@settings(deadline=None)
@given(st.text(alphabet='ab .\n"?A1', max_size=300), st.integers(1, 12))
def test_no_word_is_lost_and_no_passage_is_too_long(text, words):
    passages = split_passages(text, words)
    assert " ".join(passages).split() == text.split()
    assert all(0 < len(passage.split()) <= words for passage in passages)


def test_documents_become_passages(tmp_path):
    import pandas as pd

    frame = pd.DataFrame({"doc_id": ["d1", "d2"], "title": ["T", ""], "text": ["One two. Three four.", "Five."]})
    write_parquet(tmp_path / "documents.parquet", frame)
    params = ChunkParams(passage_words=2)
    chunk_documents(params, tmp_path / "documents.parquet", tmp_path / "passages.parquet")
    passages = read_parquet(tmp_path / "passages.parquet")
    assert passages[["doc_id", "title", "text"]].values.tolist() == [
        ["d1", "T", "One two."], ["d1", "T", "Three four."], ["d2", "", "Five."],
    ]  # fmt: skip
    assert passages["passage_id"].is_unique


def chunk(entry, root, out, words=100):
    chunk_corpus(ChunkCorpusParams(corpus=entry, passage_words=words), root, out)


TSV = 'id\ttext\ttitle\n1\t"He said ""go"" now"\tA\n2\tplain\tA\n3\tother\tB\n'


@pytest.mark.parametrize("name", ["psgs_w100.tsv", "psgs_w100.tsv.gz"])
def test_wikipedia_passages_come_as_they_are(tmp_path, name):
    data = TSV.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    entry = CorpusEntry(reader="dpr_passages", path=name)
    chunk(entry, tmp_path, tmp_path / "passages.parquet")
    passages = read_parquet(tmp_path / "passages.parquet")
    assert passages["text"].tolist() == ['He said "go" now', "plain", "other"]
    assert passages["passage_id"].tolist() == ["1", "2", "3"]
    assert passages["doc_id"].nunique() == 2
    assert [document.text for document in read_corpus(entry, tmp_path)] == ['He said "go" now plain', "other"]


@pytest.mark.parametrize(
    ("text", "message"),
    [(TSV + "3\tagain\tB\n", "3"), ("id\ttext\ttitle\n1\tonly two\n", "psgs.tsv:2"), ("a\tb\n", "psgs.tsv")],
)
def test_bad_wikipedia_files(tmp_path, text, message):
    (tmp_path / "psgs.tsv").write_text(text)
    with pytest.raises(DataError, match=message):
        chunk(CorpusEntry(reader="dpr_passages", path="psgs.tsv"), tmp_path, tmp_path / "p.parquet")
    assert not (tmp_path / "p.parquet").exists()


def texts(tmp_path, documents):
    entry = CorpusEntry(reader="text", path="text", documents=documents)
    found = list(read_corpus(entry, tmp_path))
    assert len({document.doc_id for document in found}) == len(found)
    return [(document.title, " ".join(document.text.split())) for document in found]


def test_plain_text(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("one\ntwo\n\nthree\n")
    (tmp_path / "text" / "b.txt").write_text("four\n")
    assert [text for _, text in texts(tmp_path, "file")] == ["one two three", "four"]
    assert [text for _, text in texts(tmp_path, "paragraph")] == ["one two", "three", "four"]


def test_wikitext(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text(
        " \n = First = \n \n body one \n = = Section = = \n more \n \n = Second = \n \n two \n"
    )
    found = texts(tmp_path, "wikitext")
    assert [title for title, _ in found] == ["First", "Second"]
    assert "body one" in found[0][1]
    assert "more" in found[0][1]
    assert found[1][1] == "two"


def test_bad_text_files(tmp_path):
    with pytest.raises(DataError, match="missing.txt"):
        list(read_corpus(CorpusEntry(reader="text", path="missing.txt"), tmp_path))
    (tmp_path / "x.txt").write_bytes(b"fine\nbroken \xff\n")
    with pytest.raises(DataError, match="x.txt:2"):
        list(read_corpus(CorpusEntry(reader="text", path="x.txt"), tmp_path))


def test_a_file_name_that_is_not_utf8_is_reported(tmp_path):
    path = os.fsencode(tmp_path / "text") + b"/caf\xe9.txt"
    (tmp_path / "text").mkdir()
    try:
        with open(path, "w") as stream:
            stream.write("fine")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(DataError, match="in the file's name"):
        list(read_corpus(CorpusEntry(reader="text", path="text"), tmp_path))


def passages_in(tmp_path, *names):
    for name in names:
        (tmp_path / "wiki" / name).parent.mkdir(parents=True, exist_ok=True)
        data = TSV.encode()
        (tmp_path / "wiki" / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    return CorpusEntry(reader="dpr_passages", path="wiki")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["psgs_w100.tsv.gz", "psgs_w100.tsv", "a.tsv"], "psgs_w100.tsv.gz"),
        (["psgs_w100.tsv", "a.tsv.gz"], "psgs_w100.tsv"),
        (["mine.tsv.gz", "readme.txt"], "mine.tsv.gz"),
        (["below/mine.tsv", ".hidden/other.tsv"], "below/mine.tsv"),
    ],
)
def test_a_folder_of_passages(tmp_path, names, expected):
    entry = passages_in(tmp_path, *names)
    assert find_corpus_files(entry, tmp_path) == corpus_files(entry, tmp_path) == [tmp_path / "wiki" / expected]
    assert len(list(read_corpus(entry, tmp_path))) == 2


def test_a_folder_without_the_passages(tmp_path):
    entry = passages_in(tmp_path, "readme.txt")
    with pytest.raises(DataError, match=r"wiki: no file psgs_w100\.tsv\.gz, psgs_w100\.tsv, \*\.tsv\.gz, \*\.tsv"):
        list(read_corpus(entry, tmp_path))
    passages_in(tmp_path, "b.tsv", "a.tsv.gz")
    with pytest.raises(DataError, match=r"several passage files \(a\.tsv\.gz, b\.tsv\); name one"):
        chunk(entry, tmp_path, tmp_path / "p.parquet")
    assert corpus_files(entry, tmp_path) == [tmp_path / "wiki"]


def test_corpus_files(tmp_path):
    for name in ("text/b.txt", "text/deep/a.md", "text/.hidden.txt", "text/c.pdf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")

    def files(path):
        found = corpus_files(CorpusEntry(reader="text", path=path), tmp_path)
        return [file.relative_to(tmp_path).as_posix() for file in found]

    assert files("text") == ["text/b.txt", "text/deep/a.md"]
    assert files("text/*.txt") == ["text/b.txt"]
    assert files("text/c.pdf") == ["text/c.pdf"]
    assert files("missing") == ["missing"]
    assert files("text/*.raw") == ["text/*.raw"]


def test_a_truncated_archive_is_named(tmp_path):
    entry = passages_in(tmp_path, "psgs_w100.tsv.gz")
    file = tmp_path / "wiki" / "psgs_w100.tsv.gz"
    file.write_bytes(file.read_bytes()[:-12])
    for skip in (False, True):
        with pytest.raises(DataError, match=r"psgs_w100\.tsv\.gz:\d+: truncated or damaged archive"):
            list(read_corpus(entry.model_copy(update={"skip_bad_records": skip}), tmp_path))


def test_text_that_is_left_out_is_counted_wherever_it_is_read(tmp_path):
    from retrotune.retrieval.caches.texts import cache_pretraining_neighbors
    from retrotune.study.config import Recipe, RetrieverEntry, SizeEntry
    from retrotune.training.pretrain import pretrain_model
    from retrotune.training.tokenizer import train_tokenizer

    (tmp_path / "a.txt").write_bytes(b"Ann lives near the harbor.\n\nBroken \xff\n\nBob paints the harbor.\n")
    (tmp_path / "b.txt").write_text("Goats eat thistles.\n")
    corpora = {
        name: CorpusEntry(reader="text", path=f"{name}.txt", documents="paragraph", skip_bad_records=True)
        for name in ("a", "b")
    }
    tokenizer = tmp_path / "tokenizer" / "tokenizer.json"
    strict = {"a": corpora["a"].model_copy(update={"skip_bad_records": False})}
    with pytest.raises(DataError, match=r"a\.txt:3: not UTF-8"):
        train_tokenizer(TrainTokenizerParams(corpora=strict, vocab_size=270), tmp_path, tokenizer)
    assert not list(tmp_path.glob("tokenizer/*"))
    train_tokenizer(TrainTokenizerParams(corpora=corpora, vocab_size=270), tmp_path, tokenizer)
    manifest = read_json(tmp_path / "tokenizer" / "manifest.json")
    assert (manifest["vocab_size"], manifest["documents"]) == (270, {"a": 2, "b": 1})
    assert manifest["bad_records"]["a"]["reasons"] == {"not UTF-8": 1}
    assert manifest["bad_records"]["b"]["skipped"] == 0

    chunk(corpora["b"], tmp_path, tmp_path / "passages.parquet", words=10)
    bm25 = RetrieverEntry(kind="bm25")
    searched = CacheTextNeighborsParams(retriever=bm25, top_k=1, source="wiki", corpora=corpora)
    cache_pretraining_neighbors(
        searched, tmp_path, tmp_path / "passages.parquet", tokenizer, 0, tmp_path / "neighbors.json"
    )
    counts = read_json(tmp_path / "neighbors.json")["bad_records"]
    assert {name: summary["skipped"] for name, summary in counts.items()} == {"a": 1, "b": 0}

    size = SizeEntry(num_layers=1, hidden_size=8, num_heads=1, ffn_size=8, max_length=32, chunk_length=8)
    recipe = Recipe(
        neighbors_per="document", sequence_length=32, batch_size=2, steps=1, optimizer="adamw", learning_rate=0.01,
        warmup_steps=0,
    )  # fmt: skip
    params = PretrainParams(family="gpt", size=size, recipe=recipe, corpora=corpora)
    pretrain_model(params, tmp_path, tokenizer, None, tmp_path / "m", tmp_path / "work")
    assert read_json(tmp_path / "m" / "manifest.json")["skipped"] == {"a": 1, "b": 0}
