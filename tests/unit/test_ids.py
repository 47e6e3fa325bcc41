"""Ids that occur twice: found among many, named with both places, and never suspected wrongly."""

import gzip
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrotune.data.corpora import ids
from retrotune.data.corpora.ids import IdHashes, first_repeated
from retrotune.errors import DataError, RetrievalError
from retrotune.preparing.chunking import chunk_corpus
from retrotune.retrieval.passages import PassageTable
from retrotune.runtime.files import write_parquet
from retrotune.study.config import CorpusEntry
from retrotune.study.stages import ChunkCorpusParams


def repeated(names):
    hashes = IdHashes()
    for name in names:
        hashes.add(name)
    return first_repeated(zip(names, range(len(names)), strict=True), hashes.suspects())


@given(st.lists(st.text(max_size=2), max_size=30), st.sampled_from([1, 3, 100]), st.booleans())
def test_the_first_repeated_id_is_found(names, at_once, all_collide):
    second = next((place for place, name in enumerate(names) if name in names[:place]), None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ids, "HASHED_AT_ONCE", at_once)
        if all_collide:
            patch.setattr(ids, "_hashes", lambda block: np.zeros(len(block), dtype=np.uint64))
        expected = None if second is None else (names[second], names.index(names[second]), second)
        assert repeated(names) == expected


def test_memory_is_8_bytes_per_id():
    """A set of the same 400,000 ids takes about 45 MB."""
    hashes = IdHashes()
    tracemalloc.start()
    for number in range(400_000):
        hashes.add(f"passage number {number}")
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert kept < 400_000 * 8 + 1_000_000
    assert len(hashes.suspects()) == 0


def test_passages_with_an_id_twice_are_refused(tmp_path):
    names = [f"p{row}" for row in range(50)]
    names[41] = "p7"
    rows = [{"passage_id": name, "doc_id": "d", "title": "", "text": "x"} for name in names]
    write_parquet(tmp_path / "passages.parquet", pd.DataFrame(rows))
    with pytest.raises(RetrievalError, match=r"passages\.parquet: passage id 'p7' stands in rows 7 and 41; give each"):
        PassageTable(tmp_path / "passages.parquet")


@pytest.mark.parametrize("skip", [False, True])
def test_a_dpr_file_with_an_id_twice_is_refused_with_both_places(tmp_path, skip):
    lines = [f"{number}\ttext {number}\ttitle" for number in range(1, 9)]
    lines[6] = "3\tanother text\ttitle"
    lines.insert(2, "3\t\ttitle") if skip else None  # a bad record is no place of an id
    with gzip.open(tmp_path / "psgs_w100.tsv.gz", "wt") as stream:
        stream.write("\n".join(["id\ttext\ttitle", *lines]) + "\n")
    entry = CorpusEntry(reader="dpr_passages", path="psgs_w100.tsv.gz", skip_bad_records=skip)
    first, second = (5, 9) if skip else (4, 8)
    message = rf"gz:{second}: passage id '3' is that of .*psgs_w100\.tsv\.gz:{first} too; give each passage an id"
    with pytest.raises(DataError, match=message):
        chunk_corpus(ChunkCorpusParams(corpus=entry, passage_words=100), tmp_path, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_documents_across_row_groups(tmp_path):
    documents = ["b", "b", "a", "b", "c", "a"]
    frame = pd.DataFrame({"passage_id": list("123456"), "doc_id": documents, "title": "", "text": "x"})
    frame.to_parquet(tmp_path / "passages.parquet", row_group_size=2)
    table = PassageTable(tmp_path / "passages.parquet")
    assert {name: table.rows_of(name).tolist() for name in "abcd"} == {"a": [2, 5], "b": [0, 1, 3], "c": [4], "d": []}
    numbers, codes = table.documents
    assert [codes[name] for name in documents] == numbers.tolist()
    assert table.following(range(6)).tolist() == [1, -1, -1, -1, -1, -1]
