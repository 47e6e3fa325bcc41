"""Which passages hold an answer: DPR's string match, and evidence paragraphs where annotators marked them.

The match is that of DPR's retrieval evaluation (Karpukhin et al. 2020, arXiv 2004.04906, `qa_validation.py`): text and
answer are normalized to NFD, split into runs of letters, numbers and marks or single other characters that are no
space, lower-cased, and the answer's tokens must follow each other in the passage's text. Titles do not count.
"""

import functools
import unicodedata
from collections.abc import Sequence

import regex

_TOKEN = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")


def answer_tokens(text: str) -> list[str]:
    """Tokens of a text as DPR's `SimpleTokenizer` makes them, lower-cased."""
    return [token.lower() for token in _TOKEN.findall(unicodedata.normalize("NFD", text))]


@functools.lru_cache(maxsize=20_000)
def spaced_tokens(text: str) -> str:
    """Tokens between single blanks, one at each end: tokens follow each other where these strings are contained.

    Kept for the texts seen last, as questions share passages: 40 microseconds for a passage of 100 words otherwise.
    """
    return f" {' '.join(answer_tokens(text))} "


def holds_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether a passage's text holds one of the answers. An answer without any token is held by none."""
    passage = spaced_tokens(text)
    return any(wanted in passage for wanted in map(spaced_tokens, answers) if wanted.strip())


def evidence_places(texts: Sequence[str], evidence: Sequence[str]) -> list[int]:
    """Numbers of the passages that hold evidence, those with most of its tokens first.

    `texts` are all passages of a document in their order, together its whole text, so that a paragraph is found where
    passages cut it too. A passage holds evidence if it shares half of a paragraph's tokens, or half of its own. Empty
    if no paragraph occurs in the text (tables and figures do not).
    """
    spaced = [spaced_tokens(text).strip() for text in texts]
    lengths = [len(text.split()) for text in spaced]
    whole = " ".join(["", *(text for text in spaced if text), ""])
    shared = [0] * len(texts)
    holds = [False] * len(texts)
    for paragraph in evidence:
        wanted = spaced_tokens(paragraph)
        found = whole.find(wanted) if wanted.strip() else -1
        if found < 0:
            continue
        first = whole.count(" ", 0, found)
        last = first + len(wanted.split())
        start = 0
        for number, length in enumerate(lengths):
            overlap = min(last, start + length) - max(first, start)
            if overlap > 0:
                shared[number] += overlap
                holds[number] |= 2 * overlap >= min(last - first, length)
            start += length
    return sorted((number for number in range(len(texts)) if holds[number]), key=lambda number: -shared[number])
