"""Reading raw files that somebody else wrote: every fault is an error with its place, or is counted when asked to."""

import csv
import gzip
import json
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from retrotune.errors import DataError

T = TypeVar("T")


@dataclass(frozen=True)
class Document:
    """A raw source item. `doc_id` is unique within its corpus or dataset; the title may be empty, the text not."""

    doc_id: str
    title: str
    text: str


class BadRecordError(DataError):
    """What is wrong with one record; its place is added by `BadRecords`."""


class BadRecords:
    """What to do with a record that cannot be used: stop with its place, or (`skip`) count it for the manifest.

    A reason is counted without its details, which stand in brackets at its end. A place is anything whose text says
    where the record stands; the text is made only when it is needed. `remedy` ends the message of an error.
    """

    def __init__(
        self,
        skip: bool = False,
        keep_places: int = 20,
        remedy: str = "mend the file, or set skip_bad_records to leave such records out",
    ) -> None:
        self.skip = skip
        self.remedy = remedy
        self.reasons: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.places: list[str] = []
        self._keep_places = keep_places

    def add(self, place: object, reason: str) -> None:
        """Report one bad record; raises `DataError` with the place unless bad records are skipped."""
        if not self.skip:
            raise DataError(_printable(f"{place}: {reason}; {self.remedy}"))
        self.reasons[_printable(reason.split(" (")[0])] += 1
        if len(self.places) < self._keep_places:
            self.places.append(_printable(f"{place}: {reason}"))

    @contextmanager
    def at(self, place: object) -> Iterator[None]:
        """Report what makes the block's record unusable as being at `place`.

        That is a `BadRecordError`, or what Python raises where a record is built as no reader expected.
        """
        try:
            yield
        except BadRecordError as error:
            self.add(place, str(error))
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            self.add(place, f"unexpected structure ({type(error).__name__}: {error})")

    def summary(self) -> dict[str, Any]:
        """The manifest's account: how many records were left out, why, and where the first ones stand."""
        return {
            "skipped": self.reasons.total(),
            "reasons": dict(sorted(self.reasons.items())),
            "first_skipped": self.places,
            "notes": dict(sorted(self.notes.items())),
        }


def _printable(text: str) -> str:
    """The text with half surrogate pairs escaped, so that messages and manifests can be written as UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def need(record: Any, key: str, kind: type[T]) -> T:
    """The field `key` of a record, which must be of type `kind`; raises `BadRecordError` otherwise."""
    if not isinstance(record, dict):
        raise BadRecordError(f"the record is not an object (but {type(record).__name__})")
    if key not in record:
        raise BadRecordError(f"no field {key!r}")
    value = record[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise BadRecordError(f"field {key!r} is not of type {kind.__name__} (but {type(value).__name__})")
    return value


def optional(record: Any, key: str, kind: type[T]) -> T | None:
    """The field `key` of a record, None if it is missing or null; raises `BadRecordError` for any other type."""
    if isinstance(record, dict) and record.get(key) is None:
        return None
    return need(record, key, kind)


def need_texts(record: Any, key: str) -> list[str]:
    """The field `key` of a record, which must be a list of texts; raises `BadRecordError` otherwise."""
    values = need(record, key, list)
    for value in values:
        if not isinstance(value, str):
            raise BadRecordError(f"field {key!r} holds something that is not text (but {type(value).__name__})")
    return values


def check_unicode(owner: str, *texts: str) -> None:
    """Raise `BadRecordError` naming `owner` for half a surrogate pair: JSON can hold `\\ud800`, UTF-8 files cannot."""
    for text in texts:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            half = ascii(text[error.start])
            raise BadRecordError(f"half a surrogate pair ({half} at character {error.start}, {owner})") from error


def squeeze(text: str) -> str:
    """The text with every run of white space replaced by one space."""
    return " ".join(text.split())


def relative_name(file: Path, root: str | Path) -> str:
    """A file's path as seen from `root`, with forward slashes."""
    return Path(os.path.relpath(file, root)).as_posix()


def open_bytes(path: Path) -> BinaryIO:
    """Open a plain or gzip-compressed (`.gz`) file; `DataError` if it is missing or may not be read."""
    try:
        return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else open(path, "rb")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror}); it must be a file that you may read") from error


def numbered_lines(path: Path, bad: BadRecords) -> Iterator[tuple[int, str]]:
    """Yield (line number, line with its end) of a UTF-8 file, plain or `.gz`; a byte-order mark is dropped.

    A line that is not UTF-8, or holds NUL, goes to `bad`. A truncated or damaged archive always raises `DataError`:
    what is missing cannot be counted.
    """
    number = 0
    with open_bytes(path) as stream:
        try:
            for number, line in enumerate(stream, start=1):
                try:
                    text = line.decode("utf-8")
                except UnicodeDecodeError as error:
                    bad.add(f"{path}:{number}", f"not UTF-8 (byte {error.start} of the line)")
                    continue
                if "\0" in text:  # UTF-16 is mostly valid UTF-8 with a NUL after each letter
                    bad.add(f"{path}:{number}", f"a NUL byte: no text, or UTF-16 (byte {line.index(0)} of the line)")
                    continue
                yield number, text.removeprefix("\ufeff") if number == 1 else text
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{path}:{number + 1}: truncated or damaged archive ({error}); fetch it again") from error


def read_json_lines(path: Path, bad: BadRecords, unique_keys: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield (place, object) of a JSON-lines file; unreadable lines go to `bad`, blank ones are skipped.

    `unique_keys`: objects that say a key twice go to `bad` too, of which Python takes the last.
    """
    for number, line in numbered_lines(path, bad):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            record = json.loads(line, object_pairs_hook=_unique if unique_keys else None)
        except json.JSONDecodeError as error:
            bad.add(place, f"not valid JSON ({error.msg}; truncated or damaged?)")
            continue
        except BadRecordError as error:
            bad.add(place, str(error))
            continue
        except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
            bad.add(place, f"JSON that Python does not read ({error})")
            continue
        yield place, record


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of its pairs, none of whose keys may repeat."""
    keys = Counter(key for key, _ in pairs)
    if len(keys) < len(pairs):
        raise BadRecordError(f"key given twice ({keys.most_common(1)[0][0]!r})")
    return dict(pairs)


def read_whole(path: Path) -> str:
    """The text of a UTF-8 file, plain or `.gz`; every fault is a `DataError` with its place."""
    try:
        with open_bytes(path) as stream:
            content = stream.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: truncated or damaged archive ({error}); fetch it again") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8 (byte {error.start} of the file); convert the file") from error


def read_json_document(path: Path) -> Any:
    """Read a JSON file, plain or `.gz`, that is one value; every fault is a `DataError` with its place."""
    text = read_whole(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not valid JSON ({error.msg}); truncated or damaged?") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        raise DataError(f"{path}:1: JSON that Python does not read ({error}); is it the right file?") from error


def read_csv(path: Path, bad: BadRecords, delimiter: str = ",", strict: bool = True) -> Iterator[tuple[str, list[str]]]:
    """Yield (place, row) of a csv file with quoted fields; the place is the row's last line.

    Raises `DataError` with the line where the quoting breaks, as in a file that was cut off within a quoted field.
    """
    csv.field_size_limit(sys.maxsize)
    last = 0

    def lines() -> Iterator[str]:
        nonlocal last
        for number, line in numbered_lines(path, bad):
            last = number
            yield line

    rows = csv.reader(lines(), delimiter=delimiter, strict=strict)
    try:
        for row in rows:
            if row:
                yield f"{path}:{last}", row
    except csv.Error as error:
        raise DataError(f"{path}:{last}: broken quoting ({error}); truncated or damaged?") from error


def read_table(path: Path, bad: BadRecords, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (place, row as a dict) of a csv file with a header, which must name `columns`.

    A row with another number of fields than the header goes to `bad`.
    """
    rows = read_csv(path, bad)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path}: empty file")
    header = first[1]
    missing = [column for column in columns if column not in header]
    if missing:
        raise DataError(f"{path}:1: no column {', '.join(missing)}; found {', '.join(header)}")
    for place, row in rows:
        if len(row) != len(header):
            bad.add(place, f"wrong number of fields ({len(row)}, the header has {len(header)})")
            continue
        yield place, dict(zip(header, row, strict=True))


def version_key(path: Path) -> list[tuple[int, int | str]]:
    """Sort key under which numbers within a name count as numbers: v1.0.1 comes after v1.0, and v0.10 after v0.9."""
    return [(1, int(part)) if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", path.name)]


def find_file(path: Path, patterns: tuple[str, ...]) -> Path | None:
    """The file of the first pattern that matches below the folder `path`, in its highest version; None if none does.

    If `path` is itself a file, it must match the last part of a pattern.
    """
    if path.is_file():
        return path if any(path.match(pattern.rsplit("/", 1)[-1]) for pattern in patterns) else None
    for pattern in patterns:
        matches = [match for match in path.glob(pattern) if match.is_file()]
        if matches:
            return max(matches, key=version_key)
    return None
