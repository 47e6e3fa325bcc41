"""Files that are whole or absent: atomic writes, JSON, JSON lines, parquet, checksums and numbered blocks."""

import contextlib
import hashlib
import itertools
import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from retrotune.errors import DataError, ResultError


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the final name only if the block ends without an error.

    The data are flushed to disk before the rename, so a crash or a full disk never leaves a half file under `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN is refused: what is unknown is null."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path, allow_nan: bool = False) -> Any:
    """Read a JSON file; `DataError` names the file and the line if it is missing, truncated, not UTF-8 or not JSON.

    NaN and infinite numbers are no JSON, although Python reads and writes them. `allow_nan` is for files of others:
    some configurations of transformers hold Infinity.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; convert the file to UTF-8") from error
    return _parse(text, path, 1, allow_nan)


def write_jsonl(path: str | Path, records: Iterable[Any]) -> None:
    """Write one JSON object per line, atomically."""
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        for record in records:
            stream.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")


def read_jsonl(path: str | Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number, object) of a JSON-lines file; blank lines are skipped.

    Raises `DataError` with file and line for a missing file, a truncated line, a number that is not finite, or bytes
    that are not UTF-8.
    """
    if not Path(path).exists():
        raise DataError(f"{path}: no such file")
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{path}:{number}: not UTF-8 at byte {error.start} of the line") from error
            yield number, _parse(text.rstrip(), path, number)


def _parse(text: str, path: str | Path, line: int, allow_nan: bool = False) -> Any:
    """The value of a JSON text that begins on a line of a file."""
    try:
        return json.loads(text) if allow_nan else _STRICT.decode(text)
    except json.JSONDecodeError as error:
        place = f"{path}:{line + error.lineno - 1}"
        raise DataError(f"{place}: not valid JSON ({error.msg}); truncated or damaged?") from error
    except _NotFiniteError as error:
        place = f"{path}:{line + _lines_before(error.number, text)}"
        raise DataError(
            f"{place}: the number {error.number} is not finite, and no JSON: what is unknown is null"
        ) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of open brackets
        raise DataError(f"{path}:{line}: not readable JSON ({error}); damaged?") from error


class _NotFiniteError(Exception):
    def __init__(self, number: str) -> None:
        self.number = number


def _refuse(number: str) -> NoReturn:
    raise _NotFiniteError(number)


def _finite(number: str) -> float:
    """A number's value; Python reads 1e999 as infinite."""
    value = float(number)
    return value if math.isfinite(value) else _refuse(number)


_STRICT = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)


def _lines_before(number: str, text: str) -> int:
    """Line breaks before the first place where a number stands outside of strings."""
    pieces = re.finditer(rf'"(?:[^"\\]|\\.)*"|(?<![\w.+-]){re.escape(number)}(?![\w.+-])', text)
    return text.count("\n", 0, next(piece.start() for piece in pieces if piece[0] == number))


def sha256(path: str | Path) -> str:
    """Hex digest of a file's bytes, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def sha256_text(text: str) -> str:
    """Hex digest of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def write_parquet(path: str | Path, table: Any) -> None:
    """Write a pandas frame or an arrow table as parquet, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not isinstance(table, pa.Table):
        table = pa.Table.from_pandas(table, preserve_index=False)
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)


def write_parquet_parts(path: str | Path, parts: Iterable[Any], schema: Any) -> None:
    """Write arrow tables of one schema as the row groups of one parquet file, atomically, one in memory at a time."""
    import pyarrow.parquet as pq

    with atomic_write(path) as temporary, pq.ParquetWriter(temporary, schema, write_page_checksum=True) as writer:
        for part in parts:
            writer.write_table(part, row_group_size=max(1, len(part)))


def write_parquet_rows(path: str | Path, rows: Iterable[dict[str, Any]], schema: Any, group_rows: int = 50_000) -> int:
    """Write rows as parquet, atomically and in row groups, so that memory holds one group only; the number of rows.

    `schema` is an arrow schema: columns have their types even where no row is written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = iter(rows)
    count = 0
    with atomic_write(path) as temporary, pq.ParquetWriter(temporary, schema, write_page_checksum=True) as writer:
        while group := list(itertools.islice(stream, group_rows)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
            count += len(group)
    return count


def read_parquet(path: str | Path, columns: list[str] | None = None) -> Any:
    """Read a parquet file as a pandas frame; `DataError` with the remedy if it is missing or damaged."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=columns, page_checksum_verification=True)
        table.validate(full=True)
        frame: pd.DataFrame = table.to_pandas()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: damaged ({error}); delete it and run again to rebuild it") from error
    return frame


def read_parquet_parts(path: str | Path, columns: list[str]) -> Iterator[Any]:
    """Columns of each arrow table that `write_parquet_parts` wrote, one in memory at a time; raises as `read_parquet`.

    600,000 rows of 300 parts take a tenth of the time that a frame of them and its groups take.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for number in range(file.num_row_groups):
                table = file.read_row_group(number, columns=columns)
                table.validate(full=True)
                yield table
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: damaged ({error}); delete it and run again to rebuild it") from error


def read_result(path: str | Path) -> Any:
    """Read a result's JSON. `ResultError`, not `DataError`: the remedy is another one, to run the cell again."""
    try:
        return read_json(path)
    except DataError as error:
        raise ResultError(f"{error}; delete the cell's folder and run it again") from error


def listing(path: str | Path) -> dict[str, tuple[int, int]]:
    """(size, time of change in nanoseconds) of a file, or of each file below a folder, by name; none if it is absent.

    Hidden files and folders are left out. A link counts as what it leads to, one that leads nowhere as size -1.
    """
    root = Path(path)
    if root.is_file():
        return {root.name: _size_and_time(root)}
    found = {}
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                file = Path(folder) / name
                found[file.relative_to(root).as_posix()] = _size_and_time(file)
    return found


def _size_and_time(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError:
        return -1, 0
    return status.st_size, status.st_mtime_ns


def block_path(folder: str | Path, number: int, suffix: str) -> Path:
    """Path of a numbered block, `{folder}/00012.npy`: names sort in the order of the blocks."""
    return Path(folder) / f"{number:05d}{suffix}"


@contextlib.contextmanager
def lock(path: str | Path) -> Iterator[None]:
    """Hold the right to write `path` while other processes that ask for it wait; a process that dies loses it.

    The empty file `.{name}.lock` beside `path` stays behind: removing it would let two processes hold two files.
    """
    from filelock import FileLock

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / f".{path.name}.lock"):
        yield
