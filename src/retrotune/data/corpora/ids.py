"""Ids that must be unique, among millions of them: memory holds 8 bytes per id instead of the ids."""

import itertools
from collections.abc import Iterable
from typing import Any, TypeVar

Place = TypeVar("Place")
HASHED_AT_ONCE = 100_000


class IdHashes:
    """Hashes of all ids seen, 64 bits each. Equal hashes are only a suspicion, which `first_repeated` settles."""

    def __init__(self) -> None:
        self._hashed: list[Any] = []
        self._waiting: list[str] = []

    def add(self, name: str) -> None:
        """One more id."""
        self._waiting.append(name)
        if len(self._waiting) >= HASHED_AT_ONCE:
            self.extend(())

    def extend(self, names: Iterable[str]) -> None:
        """Some more ids."""
        self._waiting.extend(names)
        self._hashed.append(_hashes(self._waiting))
        self._waiting = []

    def suspects(self) -> Any:
        """Sorted hashes that more than one id has; an empty array if all ids differ."""
        import numpy as np

        self.extend(())
        hashes = np.concatenate(self._hashed)
        hashes.sort()
        self._hashed = [hashes]
        return np.unique(hashes[1:][hashes[1:] == hashes[:-1]])


def first_repeated(placed: Iterable[tuple[str, Place]], suspects: Any) -> tuple[str, Place, Place] | None:
    """The first id that occurs a second time, and both its places; None if only hashes were equal.

    `placed` are all ids with their places, read once more; `suspects` are those of `IdHashes`.
    """
    import numpy as np

    seen: dict[str, Place] = {}
    stream = iter(placed)
    while block := list(itertools.islice(stream, HASHED_AT_ONCE)):
        for number in np.flatnonzero(np.isin(_hashes([name for name, _ in block]), suspects)):
            name, place = block[number]
            if name in seen:
                return name, seen[name], place
            seen[name] = place
    return None


def _hashes(names: list[str]) -> Any:
    import numpy as np
    from pandas.util import hash_array

    return hash_array(np.array(names, dtype=object), categorize=False)
