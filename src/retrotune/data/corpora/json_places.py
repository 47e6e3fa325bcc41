"""On which line of a JSON file a part of its value begins: looked up only when a message needs it.

Python's parser does not tell where a value stood. Reading 600,000 records with their lines would cost every user what
only the owner of a damaged file needs, so the file is read a second time once something is wrong.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrotune.data.corpora.records import read_whole

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()

Steps = tuple[str | int, ...]
"""Keys and positions that lead from the file's value to a part of it."""


class JsonPlaces:
    """Places within a JSON file, plain or `.gz`, that was read as one valid value."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._text: str | None = None
        self._members: dict[Steps, dict[str | int, int]] = {}

    def of(self, *steps: str | int, name: str = "") -> "JsonPlace":
        """The place of a part, called `name` in messages: within a file of one line the line says little."""
        return JsonPlace(self, steps, name)

    def line(self, steps: Steps) -> int:
        """The line on which the part at `steps` begins."""
        if self._text is None:
            self._text = read_whole(self.path)
        start = _skip_space(self._text, 0)
        for depth, step in enumerate(steps):
            parent = steps[:depth]
            if parent not in self._members:
                self._members[parent] = _find_members(self._text, start)
            start = self._members[parent][step]
        return self._text.count("\n", 0, start) + 1


@dataclass(frozen=True)
class JsonPlace:
    """A place as messages name it, `file:line name`."""

    places: JsonPlaces
    steps: Steps
    name: str

    def __str__(self) -> str:
        return f"{self.places.path}:{self.places.line(self.steps)} {self.name}".rstrip()


def _skip_space(text: str, start: int) -> int:
    match = _SPACE.match(text, start)
    return match.end() if match else start


def _find_members(text: str, start: int) -> dict[str | int, int]:
    """Where the values within the object or list at `start` begin, by key or position."""
    members: dict[str | int, int] = {}
    keyed = text[start] == "{"
    at = _skip_space(text, start + 1)
    while text[at] not in "]}":
        key: Any = len(members)
        if keyed:
            key, at = _DECODER.raw_decode(text, at)
            at = _skip_space(text, _skip_space(text, at) + 1)
        members[key] = at
        _, at = _DECODER.raw_decode(text, at)
        at = _skip_space(text, at)
        if text[at] == ",":
            at = _skip_space(text, at + 1)
    return members
