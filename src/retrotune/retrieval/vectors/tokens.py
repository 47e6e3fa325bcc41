"""Texts as an encoder's tokens: nothing that a text spells becomes a special token."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from retrotune.errors import RetrievalError

Text = str | tuple[str, str]
"""A text, or a passage's title and text with the tokenizer's separator between them."""

TEXTS_AT_ONCE = 1000
"""Texts tokenized at a time: their tokens become small integers before the next ones are read."""


class TextTokens:
    """Tokens of texts, cut to `max_length` with the special tokens that the tokenizer puts around each.

    `prefix` stands before each text. Raises `RetrievalError` if special tokens leave no room for a text, or the prefix
    spells one: it would be text too.
    """

    def __init__(self, tokenizer: Any, max_length: int, prefix: str = "") -> None:
        self._tokenizer = tokenizer
        probe = tokenizer("Paris", return_special_tokens_mask=True)
        inside = np.flatnonzero(np.array(probe["special_tokens_mask"]) == 0)
        if not len(inside):
            raise RetrievalError(
                f"{tokenizer.name_or_path}: its tokenizer finds no token in 'Paris': use another model"
            )
        numbers = np.array(probe["input_ids"], dtype=np.int32)
        self._before, self._after = numbers[: inside[0]], numbers[inside[-1] + 1 :]
        room = max_length - len(self._before) - len(self._after)
        if room < 1:
            raise RetrievalError(f"retriever max_length={max_length} leaves no room beside special tokens: raise it")
        self._cut = slice(room) if tokenizer.truncation_side == "right" else slice(-room, None)
        spelled = {token: tokenizer.convert_tokens_to_ids(token) for token in tokenizer.all_special_tokens}
        spelled |= {str(token): number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        # a character that is a special token somewhere (`!` pads in some models) is still that character in a text
        self._special = {number for token, number in spelled.items() if len(token) > 1}
        if marks := [token for token in spelled if len(token) > 1 and token in prefix]:
            raise RetrievalError(
                f"{tokenizer.name_or_path}: the prefix {prefix!r} spells the special token {marks[0]!r}, which texts "
                "do not get here: set query_prefix or passage_prefix without it in the retriever's entry"
            )
        self._prefix = prefix
        self._unknown = tokenizer.unk_token_id, tokenizer.unk_token

    def __call__(self, texts: Sequence[Text]) -> list[Any]:
        """Tokens of each text as an array of int32. Raises `RetrievalError` if there is no separator for titles."""
        tokens: list[Any] = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            some = texts[start : start + TEXTS_AT_ONCE]
            # blanks beside the separator, as Dragon's authors write it
            parts = [
                (self._prefix + text,) if isinstance(text, str) else (f"{self._prefix}{text[0]} ", f" {text[1]}")
                for text in some
            ]
            contents = iter(self._contents([part for pair in parts for part in pair]))
            for pair in parts:
                content = next(contents)
                if len(pair) > 1:
                    content = np.concatenate([content, self._separator(), next(contents)])
                tokens.append(np.concatenate([self._before, content[self._cut], self._after]))
        return tokens

    def _separator(self) -> Any:
        if self._tokenizer.sep_token_id is None:
            raise RetrievalError(
                f"{self._tokenizer.name_or_path}: its tokenizer has no separator: set title_separator to blank"
            )
        return np.array([self._tokenizer.sep_token_id], dtype=np.int32)

    def _contents(self, texts: list[str]) -> list[Any]:
        """Tokens of texts without those around them."""
        contents = [np.array(numbers, dtype=np.int32) for numbers in self._numbers(texts)["input_ids"]]
        rows = np.repeat(np.arange(len(contents)), [len(content) for content in contents])
        suspects = rows[np.isin(np.concatenate(contents), list(self._special))]
        unknown, spelling = self._unknown
        for row in np.unique(suspects):
            if set(contents[row].tolist()) & self._special != {unknown} or spelling in texts[row]:
                contents[row] = self._parted(texts[row])
        return contents

    def _parted(self, text: str) -> Any:
        """Tokens of a text in which a blank parts what would be a special token; one that is left is dropped.

        A tokenizer that is told to split special tokens still gives them where they are pieces of its vocabulary and
        nothing before it divides them (`</s>` in XLM-R's).
        """
        unknown, spelling = self._unknown
        if self._tokenizer.is_fast:
            found = self._numbers([text], return_offsets_mapping=True)
            for number, (start, end) in reversed(
                list(zip(found["input_ids"][0], found["offset_mapping"][0], strict=True))
            ):
                if number in self._special and (number != unknown or spelling in text[start:end]):
                    text = f"{text[: start + 1]} {text[start + 1 :]}"
        numbers = self._numbers([text])["input_ids"][0]
        kept = [number for number in numbers if number == unknown or number not in self._special]
        return np.array(kept, dtype=np.int32)

    def _numbers(self, texts: list[str], **keys: Any) -> Any:
        return self._tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # no word on long texts, which are cut later
            **keys,
        )
