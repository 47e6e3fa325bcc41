"""What the datasets' writers of the demo share: ids, tables, and Wikipedia in DPR's layout.

Each dataset's file has its own writer.
"""

import csv
import gzip
import hashlib
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from retrotune.data.demo.facts import Family
from retrotune.data.demo.names import Split
from retrotune.data.demo.scenes import Scene
from retrotune.runtime.files import atomic_write

Scenes = Mapping[Split, Sequence[Scene]]


@dataclass(frozen=True)
class Demo:
    """A dataset's part of the demo world: what its documents are about, its splits, and who writes its files.

    `write(folder, scenes, generator)` writes documents and questions of all splits below the dataset's folder in its
    official layout; the generator shuffles what it must.
    """

    family: Family
    splits: tuple[Split, ...]
    write: Callable[[Path, Scenes, random.Random], None]


def identifier(*parts: object) -> str:
    """A document or question id as the releases have them, 40 hex digits."""
    return hashlib.sha1("/".join(map(str, parts)).encode("utf-8"), usedforsecurity=False).hexdigest()


def tokenized(text: str) -> str:
    """Words and punctuation separated by single spaces."""
    return " ".join(re.findall(r"\w+|[^\w\s]", text))


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table with a line of column names; the same rows give the same bytes."""
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def write_wikipedia(path: Path, articles: Iterable[tuple[str, str]]) -> None:
    """DPR's `psgs_w100.tsv.gz` from (title, text): columns id, text (always quoted), title; ids count from 1."""
    lines = ["id\ttext\ttitle\n"]
    for number, (title, text) in enumerate(articles, start=1):
        quoted = text.replace('"', '""')
        lines.append(f'{number}\t"{quoted}"\t{title}\n')
    with atomic_write(path) as temporary:
        # no time in the archive: the same world gives the same bytes
        temporary.write_bytes(gzip.compress("".join(lines).encode("utf-8"), mtime=0))
