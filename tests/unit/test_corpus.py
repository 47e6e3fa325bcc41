"""Corpora and passages: plain text, Wikipedia passages, sentence-bounded chunks."""

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrotune.config import CorpusEntry
from retrotune.corpus.chunking import chunk_corpus, chunk_documents, split_passages, split_sentences
from retrotune.corpus.documents import read_corpus
from retrotune.errors import DataError
from retrotune.files import read_parquet, write_parquet


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
    chunk_documents(tmp_path / "documents.parquet", 2, tmp_path / "passages.parquet")
    passages = read_parquet(tmp_path / "passages.parquet")
    assert passages[["doc_id", "title", "text"]].values.tolist() == [
        ["d1", "T", "One two."], ["d1", "T", "Three four."], ["d2", "", "Five."],
    ]  # fmt: skip
    assert passages["passage_id"].is_unique


TSV = 'id\ttext\ttitle\n1\t"He said ""go"" now"\tA\n2\tplain\tA\n3\tother\tB\n'


@pytest.mark.parametrize("name", ["psgs_w100.tsv", "psgs_w100.tsv.gz"])
def test_wikipedia_passages_come_as_they_are(tmp_path, name):
    data = TSV.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    entry = CorpusEntry(reader="dpr_passages", path=name)
    chunk_corpus(entry, tmp_path, 100, tmp_path / "passages.parquet")
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
        chunk_corpus(CorpusEntry(reader="dpr_passages", path="psgs.tsv"), tmp_path, 100, tmp_path / "p.parquet")
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
