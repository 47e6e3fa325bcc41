"""Passages as retrieval reads them: by blocks for embedding, by row numbers for search results."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retrotune.errors import RetrievalError
from retrotune.files import sha256

COLUMNS = ("passage_id", "doc_id", "title", "text")


class PassageTable:
    """A parquet file of passages; a passage is known by its row, which is also the number of its vector.

    Texts are read in pieces, so memory holds one block or one row group of them. Raises `RetrievalError` if the file is
    missing, damaged, empty, or lacks a column.
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


class DocumentRows:
    """The rows of each document's passages, in their order."""

    def __init__(self, table: PassageTable) -> None:
        self._path = table.path
        codes: dict[str, int] = {}
        doc_of_row = np.array([codes.setdefault(doc_id, len(codes)) for doc_id in table.column("doc_id")])
        order = np.argsort(doc_of_row, kind="stable")
        borders = np.searchsorted(doc_of_row[order], np.arange(1, len(codes)))
        self._rows = dict(zip(codes, np.split(order, borders), strict=True))

    def of(self, doc_id: str | None, question_id: str) -> Any:
        """Passage rows of a question's document; `RetrievalError` if it has none."""
        if doc_id not in self._rows:
            raise RetrievalError(
                f"question {question_id!r}: its document {doc_id!r} has no passage in {self._path};"
                " delete that file and run chunk_documents again"
            )
        return self._rows[doc_id]


def passage_text(title: str, text: str, separator: str = " ") -> str:
    """Title and text of a passage as one text; a passage without title is its text."""
    return f"{title}{separator}{text}" if title else text
