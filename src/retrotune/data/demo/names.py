"""Made-up names: syllables put together by a seeded generator, in sets that cannot overlap between splits.

The split of a name is a function of its letters (a checksum), so no name of a test question can occur in training or
pretraining text, whatever the seed and the counts.
"""

import random
import zlib
from typing import Literal, get_args

from retrotune.errors import ConfigError

Split = Literal["pretraining", "train", "dev", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
_LAST_RESIDUE: dict[Split, int] = {"pretraining": 11, "train": 15, "dev": 16, "test": 19}
"""Checksum modulo 20, up to and including this value: shares of 12, 4, 1 and 3 twentieths."""


def seeded(*parts: object) -> random.Random:
    """A generator that depends on the parts alone: the same on every machine."""
    return random.Random("/".join(map(str, parts)))  # noqa: S311 (made-up text, not a secret)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST = _words(
    "Bal Bel Bor Cal Dal Dor Dul Fal Fen Gar Gor Hal Hel Hul Jal Jor Kel Kir Lor Lum Mal Mir Mor Nal Nev Nor Pel Por "
    "Ral Rin Sal Sev Sol Tal Tem Tul Val Vor Wen Wil Yal Yor Zan Zel"
)
MIDDLE = _words("a e i o u ad al am an ar ed el em en er id il im in ir ob ol om on or ud ul um un ur")
LAST = _words(
    "ak ash bak bin bus dak dim dor esh fan gan gim gus ik ish kad kin kos lak lim los mak men mik nak nim nos ok osh "
    "pak pen pos rak rim rus sak sim tak ten tik tos us vak ven vik vos wen wick yen zek"
)


def split_of(name: str) -> Split:
    """The split that a name belongs to."""
    residue = zlib.crc32(name.encode("ascii")) % 20
    return next(split for split in SPLITS if residue <= _LAST_RESIDUE[split])


class Namer:
    """Draws names of one split: subjects, which are never drawn twice, and other names, which may come again."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self._subjects: set[str] = set()

    def name(self, rng: random.Random) -> str:
        """Any name of the split, of two or three syllables."""
        while True:
            middle = rng.choice(MIDDLE) if rng.random() < 0.6 else ""
            name = rng.choice(FIRST) + middle + rng.choice(LAST)
            if split_of(name) == self.split:
                return name

    def subject(self, rng: random.Random) -> str:
        """A name that no other page of the split is about.

        Raises `ConfigError` when the split's names are used up.
        """
        for _ in range(1000):
            name = self.name(rng)
            if name not in self._subjects:
                self._subjects.add(name)
                return name
        raise ConfigError(
            f"world: {len(self._subjects)} subjects use up the names of the split {self.split!r}; "
            "lower world.pretraining_pages, train_documents or test_documents"
        )


ADJECTIVES = _words("black blue brown cold dark deep gold gray green new old pale red round tall white")
NOUNS = _words(
    "bell boat book bowl bridge clock crown cup door drum harp key lamp map ring rope sword table tower wheel"
)


def thing(rng: random.Random) -> str:
    """A thing of three words, such as 'the blue lamp'."""
    return f"the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
