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

FIRST = (
    "Bal Bel Bor Bru Cal Cor Dal Dor Dra Dul Fal Fen Fir Gar Gel Gor Gul Hal Hel Hor Hul Jal Jor Kal Kel Kir Kor Lam "
    "Lor Lum Mal Mir Mor Mul Nal Nev Nor Nul Pal Pel Por Pru Quil Ral Rin Rol Sal Sev Sol Sul Tal Tem Tor Tul Ul Val "
    "Vel Vor Wen Wil Yal Yor Zan Zel"
).split()
MIDDLE = "a e i o u ana ari eda eni ida ilo ima ola ona oru uma".split()
LAST = (
    "bak bin bor bus dak den dim dor fan fik gan gash gim gus ka kad kesh kin kos lak len lim los mak men mik mon mur "
    "nak nesh nim nos pak pen pish pos rak resh rim rus sak sen shi sim tak ten tik tos vak ven vik vos wen wick ya yen "
    "za zek zim zok"
).split()


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
        """Any name of the split, of two or three syllables (more where the middle one is long)."""
        while True:
            middle = rng.choice(MIDDLE) if rng.random() < 0.7 else ""
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


ADJECTIVES = (
    "amber black blue bright broken brown cold copper dark deep dry empty gray green golden heavy hidden high iron "
    "large long narrow new old pale plain quiet red round silent silver small smooth soft stone tall white wide wooden"
).split()
NOUNS = (
    "anchor arch barrel basket bell bench boat book bottle bowl box bridge candle carpet chair clock coat crown cup "
    "door drum flute garden gate hammer harp helmet key kettle knife ladder lamp lantern map mask mirror needle oven "
    "painting pillar ring rope saddle shield shovel spoon statue stove sword table tower trumpet wagon well wheel"
).split()


def thing(rng: random.Random) -> str:
    """A thing of three words, such as 'the blue lantern'."""
    return f"the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
