"""Text cut into chunks of tokens, as training cuts it: for queries of its chunks, and for passages that are chunks."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from retrotune.errors import DataError


def open_tokenizer(tokenizer_json: str | Path) -> Any:
    """A tokenizer in tokenizers' JSON format; `DataError` naming the remedy if it is missing or damaged."""
    from tokenizers import Tokenizer

    if not Path(tokenizer_json).is_file():
        raise DataError(f"{tokenizer_json}: no such tokenizer; chunks of tokens need one in tokenizers' JSON format")
    try:
        return Tokenizer.from_file(str(tokenizer_json))
    except Exception as error:  # tokenizers raises bare Exception for damaged files
        raise DataError(f"{tokenizer_json}: damaged ({error}); delete it and make it again") from error


def chunk_spans(tokenizer: Any, texts: Sequence[str], chunk_length: int) -> Iterator[list[tuple[int, int]]]:
    """(first, last plus one) characters of each chunk of `chunk_length` tokens, for each text.

    No special tokens are counted. White space between chunks may belong to none, as the tokenizer has it.
    """
    for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False):
        offsets = encoding.offsets
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
