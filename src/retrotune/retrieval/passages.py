"""Passages as retrieval reads them: by blocks for embedding, by row numbers for search results."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retrotune.data.corpora.ids import IdHashes, first_repeated
from retrotune.errors import RetrievalError
from retrotune.preparing.chunking import JOINED_BY
from retrotune.runtime.files import sha256

COLUMNS = ("passage_id", "doc_id", "title", "text")
ROWS_AT_ONCE = 100_000


class PassageTable:
    """A parquet file of passages; a passage is known by its row, which is also the number of its vector.

    Texts are read in pieces, so memory holds one block or one row group of them. Raises `RetrievalError` if the file is
    missing, damaged, empty, lacks a column, or has a passage id twice (naming the id and both rows).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file = pq.ParquetFile(path)
        except FileNotFoundError as error:
            raise RetrievalError(f"{path}: no such passages; run chunk_corpus or chunk_documents first") from error
        except (pa.ArrowInvalid, OSError) as error:
            raise RetrievalError(f"{path}: damaged ({error}); delete it and run again to rebuild it") from error
        missing = [name for name in COLUMNS if name not in self._file.schema_arrow.names]
        if missing:
            raise RetrievalError(f"{path}: no column {', '.join(missing)}; these are not passages, rebuild the file")
        self.rows: int = self._file.metadata.num_rows
        if not self.rows:
            raise RetrievalError(f"{path}: holds no passage; check the corpus it was made from")
        self._check_ids()

    def _check_ids(self) -> None:
        hashes = IdHashes()
        for batch in self._file.iter_batches(ROWS_AT_ONCE, columns=["passage_id"]):
            hashes.extend(batch["passage_id"].to_pylist())
        suspects = hashes.suspects()
        if not len(suspects):
            return
        batches = self._file.iter_batches(ROWS_AT_ONCE, columns=["passage_id"])
        names = (name for batch in batches for name in batch["passage_id"].to_pylist())
        if repeated := first_repeated(((name, row) for row, name in enumerate(names)), suspects):
            name, first, second = repeated
            raise RetrievalError(
                f"{self.path}: passage id {name!r} stands in rows {first} and {second}; give each passage an id of its"
                " own and make the file again"
            )

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the file."""
        return sha256(self.path)

    def blocks(self, rows: int) -> Iterator[Any]:
        """Arrow record batches of `rows` passages, in order; only the last may be shorter."""
        yield from self._file.iter_batches(rows, columns=list(COLUMNS))

    def column(self, name: str) -> Any:
        """One column as an array of objects, in memory as a whole."""
        return self._file.read([name])[name].to_numpy()

    @property
    def _joined_by(self) -> str:
        """What stands between a passage and the next one of its document."""
        joined: bytes = (self._file.schema_arrow.metadata or {}).get(JOINED_BY, b" ")
        return joined.decode()

    @cached_property
    def documents(self) -> tuple[Any, dict[str, int]]:
        """(number [rows] of each passage's document, the number of each doc_id)."""
        column = self._file.read(["doc_id"])["doc_id"].dictionary_encode().unify_dictionaries().combine_chunks()
        numbers = column.indices.to_numpy().astype(np.int64)
        return numbers, {name: number for number, name in enumerate(column.dictionary.to_pylist())}

    def rows_of(self, doc_id: str) -> Any:
        """Rows of a document's passages, in order; none for a document that has no passage."""
        _, codes = self.documents
        if doc_id not in codes:
            return np.empty(0, dtype=np.int64)
        order, borders = self._by_document
        return order[borders[codes[doc_id]] : borders[codes[doc_id] + 1]]

    @cached_property
    def _by_document(self) -> tuple[Any, Any]:
        numbers, codes = self.documents
        order = np.argsort(numbers, kind="stable")
        return order, np.searchsorted(numbers[order], np.arange(len(codes) + 1))

    def following(self, rows: Any) -> Any:
        """Rows of the passages that come next in the same documents; -1 where there is none, and for row -1."""
        rows = np.asarray(rows, dtype=np.int64)
        numbers, _ = self.documents
        after = np.minimum(rows + 1, self.rows - 1)
        return np.where((rows >= 0) & (after > rows) & (numbers[after] == numbers[rows]), after, -1)

    def take(self, rows: Any) -> Any:
        """Arrow table of the passages at `rows`, in that order; a row may occur several times."""
        wanted, places = np.unique(np.asarray(rows, dtype=np.int64), return_inverse=True)
        pieces, start = [], 0
        for group in range(self._file.metadata.num_row_groups):
            end = start + self._file.metadata.row_group(group).num_rows
            inside = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, end)] - start
            if len(inside) or not group:
                pieces.append(self._file.read_row_group(group, columns=list(COLUMNS)).take(pa.array(inside)))
            start = end
        return pa.concat_tables(pieces).take(pa.array(places))

    def texts(self, rows: Any) -> dict[int, str]:
        """Text of each of `rows`, by row; a row may occur several times and is in memory once."""
        unique = np.unique(np.asarray(rows, dtype=np.int64))
        return dict(zip(unique.tolist(), self.take(unique)["text"].to_pylist(), strict=True))

    def given(self, rows: Any, continuation: bool) -> Any:
        """The passages at `rows` as models get them; with `continuation` a text goes on into the next passage's.

        RETRO (arXiv 2112.04426, section 2.1) gives each neighbor with the chunk that follows it in its document.
        """
        found = self.take(rows)
        if not continuation:
            return found
        after = self.following(rows)
        texts = found["text"].to_pylist()
        goes_on = np.flatnonzero(after >= 0)
        for place, text in zip(goes_on, self.take(after[goes_on])["text"].to_pylist(), strict=True):
            texts[place] = f"{texts[place]}{self._joined_by}{text}"
        return found.set_column(found.schema.get_field_index("text"), "text", pa.array(texts, pa.string()))


def passage_text(title: str, text: str, separator: str = " ") -> str:
    """Title and text of a passage as one text; a passage without title is its text."""
    return f"{title}{separator}{text}" if title else text
