"""Texts that follow each other as tokens that follow each other: the one place where pieces of text become ids.

Pieces are tokenized one by one, so that cutting one never changes the tokens of another. Many tokenizers do not take a
piece for what follows other text: they put a blank before each text (Llama 2, Mistral 0.1, T5), or drop the blanks at
its ends. There a piece is tokenized behind an anchor, whose tokens are then left out: what remains are the piece's
tokens in running text, where the tokenizer merges nothing over the border.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from retrotune.data.corpora.tokens import Encoded, TextTokenizer
from retrotune.errors import ModelError
from retrotune.runtime.log import logger

_ANCHORS = ("\n", ".", "x", "0", ")", "中", "é")
"""A line break first: where it is a token, it is one that nothing merges with."""
_PROBES = ("Question", "title: T", " Norwick", "7", "(A)", "\n\n", "end. ")
"""Texts that differ where a tokenizer has blanks of its own."""


def special_ids(tokenizer: Any) -> tuple[int, int]:
    """(pad id, eos id) of a tokenizer; models without a pad token pad with eos, which the attention mask hides.

    Raises `ModelError` if there is no eos token: an answer could not end.
    """
    if tokenizer.eos_token_id is None:
        raise ModelError(f"tokenizer {tokenizer.name_or_path!r} has no eos token: set eos_token in its configuration")
    pad_id = tokenizer.pad_token_id
    return (tokenizer.eos_token_id if pad_id is None else pad_id), tokenizer.eos_token_id


class Assembler:
    """Texts as tokens of one tokenizer of transformers. No special token comes from text; `bos` is the only one here.

    Offsets are empty if the tokenizer has none (`is_fast` is false).
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._text = TextTokenizer(tokenizer.backend_tokenizer) if tokenizer.is_fast else None
        self._anchors: dict[str, Encoded] = {}

    @cached_property
    def bos(self) -> list[int]:
        """The bos token, where the tokenizer's own convention begins texts with one."""
        begin: list[int] = self.tokenizer("")["input_ids"][:1]
        return begin if begin and begin[0] == self.tokenizer.bos_token_id else []

    def begin(self, texts: Sequence[str]) -> list[Encoded]:
        """Each text as the beginning of a text."""
        encoded = self._encode(texts) if texts else []
        return [found if text else Encoded([], []) for text, found in zip(texts, encoded, strict=True)]

    def go_on(self, texts: Sequence[str], after: str = "") -> list[Encoded]:
        """Each text as what follows other text, which ends in the white space `after`."""
        if self.keeps_ends:
            return self.begin(texts)
        found = self._behind_anchors(texts, after)
        merged = [place for place, rest in enumerate(found) if rest is None]
        if merged:
            text = texts[merged[0]]
            logger.warning("%d texts are taken as beginnings: %r merges with what comes before", len(merged), text[:40])
        begun = dict(zip(merged, self.begin([texts[place] for place in merged]), strict=True))
        return [begun[place] if rest is None else rest for place, rest in enumerate(found)]

    def pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts that follow each other: the first that is not empty begins, the others go on."""
        if self.keeps_ends:
            return [found.ids for found in self.begin(texts)]
        places: dict[str | None, list[int]] = {}
        end: str | None = None
        for place, text in enumerate(texts):
            if text:
                places.setdefault(end, []).append(place)
                end = text[len(text.rstrip()) :]
        ids: list[list[int]] = [[] for _ in texts]
        for end, group in places.items():
            chosen = [texts[place] for place in group]
            encoded = self.begin(chosen) if end is None else self.go_on(chosen, end)
            for place, found in zip(group, encoded, strict=True):
                ids[place] = found.ids
        return ids

    @cached_property
    def keeps_ends(self) -> bool:
        """Whether a piece has the same tokens alone and behind other text, as for byte-level BPE without a blank."""
        behind = self._behind_anchors(_PROBES, "")
        return all(
            rest is None or rest.ids == alone.ids for alone, rest in zip(self.begin(_PROBES), behind, strict=True)
        )

    def _encode(self, texts: Sequence[str]) -> list[Encoded]:
        if self._text is not None:
            return self._text.encode(texts)
        ids = self.tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [Encoded(found, []) for found in ids]

    def _behind_anchors(self, texts: Sequence[str], after: str) -> list[Encoded | None]:
        """Each text as what follows an anchor; None if it merges with all of them."""
        found: list[Encoded | None] = [None if text else Encoded([], []) for text in texts]
        for anchor in dict.fromkeys([*(anchor + after for anchor in _ANCHORS), *_ANCHORS]):
            missing = [place for place, rest in enumerate(found) if rest is None]
            if not missing:
                break
            if anchor not in self._anchors:
                (self._anchors[anchor],) = self._encode([anchor])
            encoded = self._encode([anchor + texts[place] for place in missing])
            for place, whole in zip(missing, encoded, strict=True):
                found[place] = _behind(self._anchors[anchor], whole, anchor)
        return found


def _behind(start: Encoded, whole: Encoded, anchor: str) -> Encoded | None:
    """What follows the anchor's tokens `start` in `whole`; None if a token reaches over the border."""
    count = len(start.ids)
    if not count or whole.ids[:count] != start.ids:
        return None
    if start.offsets:
        # the same unknown token may have swallowed more; a blank that belongs to a word may be the anchor's last
        if whole.offsets[count - 1][1] > len(anchor):
            return None
        if count < len(whole.ids) and whole.offsets[count][0] < len(anchor.rstrip()):
            return None
    shift = len(anchor)
    return Encoded(
        whole.ids[count:], [(max(first - shift, 0), max(last - shift, 0)) for first, last in whole.offsets[count:]]
    )
