"""Files of DPR (Karpukhin et al. 2020): the Wikipedia passages `psgs_w100.tsv(.gz)` and the retriever's JSON."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrotune.data.corpora.ids import IdHashes, first_repeated
from retrotune.data.corpora.json_places import JsonPlace, JsonPlaces
from retrotune.data.corpora.records import BadRecordError, BadRecords, Document, read_csv, read_json_document, squeeze
from retrotune.errors import DataError

HEADER = ["id", "text", "title"]


@dataclass(frozen=True)
class PassageRow:
    """One passage; `doc_id` names the run of consecutive passages with the same title that it belongs to."""

    passage_id: str
    doc_id: str
    title: str
    text: str


def read_passages(files: Iterable[Path], bad: BadRecords) -> Iterator[PassageRow]:
    """Passages as they come, streamed. Texts are unquoted as csv does, doubled quotes made single.

    An article is known by its title; where a title comes again later, its id is `title#2` and so on.
    Raises `DataError` with file and line for a missing header, a wrong number of columns, an empty text, and a
    truncated file; after the last passage also for an id used twice (never skipped: it would join the neighbors of two
    passages), naming both places.
    """
    files = list(files)
    hashes = IdHashes()
    runs: set[str] = set()
    previous = doc_id = None
    for file in files:
        rows = read_csv(file, bad, delimiter="\t", strict=False)
        first = next(rows, None)
        if first is None or first[1] != HEADER:
            raise DataError(f"{file}:1: the header must be the columns id, text, title; found {first and first[1]}")
        for place, row in rows:
            with bad.at(place):
                if len(row) != 3:
                    raise BadRecordError(f"not three columns (but {len(row)}); truncated or wrongly quoted")
                passage_id, text, title = row
                if "\n" in title:
                    raise BadRecordError(f"a quote that is not closed in the title (id {passage_id})")
                if not passage_id:
                    raise BadRecordError("empty passage id")
                if not text.strip():
                    raise BadRecordError(f"empty passage (id {passage_id})")
                hashes.add(passage_id)
                if doc_id is None or title != previous:
                    names = itertools.chain([title], (f"{title}#{number}" for number in itertools.count(2)))
                    doc_id = next(name for name in names if name not in runs)
                    runs.add(doc_id)
                    previous = title
                yield PassageRow(passage_id, doc_id, title, squeeze(text))
    suspects = hashes.suspects()
    repeated = first_repeated(_placed_ids(files), suspects) if len(suspects) else None
    if repeated:
        name, earlier, later = repeated
        raise DataError(f"{later}: passage id {name!r} is that of {earlier} too; give each passage an id of its own")


def _placed_ids(files: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """(id, place) of all rows that are passages."""
    for file in files:
        rows = read_csv(file, BadRecords(skip=True), delimiter="\t", strict=False)
        next(rows, None)
        for place, row in rows:
            if len(row) == 3 and "\n" not in row[2] and row[1].strip():
                yield row[0], place


def read_articles(files: Iterable[Path], bad: BadRecords) -> Iterator[Document]:
    """Runs of consecutive passages with the same title, joined to documents."""
    for doc_id, rows in itertools.groupby(read_passages(files, bad), key=lambda row: row.doc_id):
        passages = list(rows)
        yield Document(doc_id, passages[0].title, " ".join(passage.text for passage in passages))


def read_retriever_json(file: Path) -> Iterator[tuple[JsonPlace, Any]]:
    """Yield (place, record) of a DPR retriever file (`biencoder-nq-dev.json` and the like), plain or `.gz`.

    Records have question, answers, positive_ctxs, negative_ctxs, hard_negative_ctxs.
    """
    records, places = read_json_document(file), JsonPlaces(file)
    if not isinstance(records, list):
        raise DataError(f"{file}:1: not a list of records but {type(records).__name__}; is this a retriever file?")
    for number, record in enumerate(records):
        yield places.of(number, name=f"record {number}"), record
