"""Text as tokens, none of them special, and cut into chunks as training cuts it: for queries, and for passages."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from retrotune.errors import DataError


class Encoded(NamedTuple):
    """Tokens of a text; `offsets` are their first and last-plus-one characters in it."""

    ids: list[int]
    offsets: list[tuple[int, int]]


def open_tokenizer(tokenizer_json: str | Path) -> Any:
    """A tokenizer in tokenizers' JSON format; `DataError` naming the remedy if it is missing or damaged."""
    from tokenizers import Tokenizer

    if not Path(tokenizer_json).is_file():
        raise DataError(f"{tokenizer_json}: no such tokenizer; chunks of tokens need one in tokenizers' JSON format")
    try:
        return Tokenizer.from_file(str(tokenizer_json))
    except Exception as error:  # tokenizers raises bare Exception for damaged files
        raise DataError(f"{tokenizer_json}: damaged ({error}); delete it and make it again") from error


class TextTokenizer:
    """A tokenizer of tokenizers' Rust library, for data: text that spells a special token stays text.

    Special tokens are those that the tokenizer calls so. Other added tokens, as for runs of blanks, are found in text.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self.special = {number: token.content for number, token in added.items() if token.special}
        model = tokenizer.model
        unknown = getattr(model, "unk_token", None)
        self.unknown = getattr(model, "unk_id", None) if unknown is None else tokenizer.token_to_id(unknown)

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Each text as a text of its own, whole, without tokens that begin or end it."""
        # Set each time, as transformers sets them for its calls; a file may ask for padding, or cut long texts.
        self.tokenizer.encode_special_tokens = True
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        encodings = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [
            self._spelled(text, Encoded(found.ids, found.offsets)) for text, found in zip(texts, encodings, strict=True)
        ]

    def _spelled(self, text: str, found: Encoded) -> Encoded:
        """Special pieces letter by letter: models find in text what their vocabulary holds, T5's `</s>` for one."""
        if self.special.keys().isdisjoint(found.ids):
            return found
        ids, offsets = list[int](), list[tuple[int, int]]()
        for number, (start, end) in zip(*found, strict=True):
            content = self.special.get(number)
            letters = [number]
            # unknown characters, and bytes of characters, may have tokens that are special in name only
            if content is not None and len(content) > 1 and content in (text[start:end], self._normal(text[start:end])):
                letters = [piece for letter in content for piece in self._letter(letter)]
            ids += letters
            offsets += [(start, end)] * len(letters)
        return Encoded(ids, offsets)

    def _normal(self, text: str) -> str:
        normalizer = self.tokenizer.normalizer
        return (normalizer.normalize_str(text) if normalizer else text).replace("▁", " ").strip()

    def _letter(self, letter: str) -> list[int]:
        whole = self.tokenizer.token_to_id(letter)
        if whole is not None:
            return [whole]
        pieces = [self.tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in letter.encode()]
        if None not in pieces:
            return pieces
        return [] if self.unknown is None else [self.unknown]


def chunk_spans(tokenizer: Any, texts: Sequence[str], chunk_length: int) -> Iterator[list[tuple[int, int]]]:
    """(first, last plus one) characters of each chunk of `chunk_length` tokens, for each text.

    No special tokens are counted. White space between chunks may belong to none, as the tokenizer has it.
    """
    for _, offsets in TextTokenizer(tokenizer).encode(texts):
        chunks = (offsets[start : start + chunk_length] for start in range(0, len(offsets), chunk_length))
        yield [(spans[0][0], spans[-1][1]) for spans in chunks]


def split_tokens(tokenizer: Any, texts: Sequence[str], passage_tokens: int) -> Iterator[list[str]]:
    """Each text as passages of at most `passage_tokens` tokens; those of a text joined again are the text.

    A chunk that holds white space only, or no whole character, is no passage: its text goes with the one before.
    """
    for text, spans in zip(texts, chunk_spans(tokenizer, texts, passage_tokens), strict=True):
        borders = [0, *(start for start, _ in spans[1:]), len(text)]
        passages: list[str] = []
        for start, end in itertools.pairwise(borders):
            piece = text[start:end]
            if passages and not piece.strip():
                passages[-1] += piece
            elif piece.strip():
                passages.append(piece)
        yield passages
