"""Cutting documents into passages, of N words at sentence boundaries or of N tokens.

The paper's retriever embeds passages of 100 words (300 in its predecessor, arXiv 2310.03025, which built them from
whole sentences). A passage is as many whole sentences as fit; only a sentence longer than a passage is cut within.
"""

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrotune.data.corpora.dpr import read_passages
from retrotune.data.corpora.records import BadRecords, relative_name, squeeze
from retrotune.data.corpora.tokens import open_tokenizer, split_tokens
from retrotune.errors import DataError
from retrotune.preparing.documents import Document, read_corpus
from retrotune.runtime.files import read_parquet, sha256, write_json, write_parquet_rows
from retrotune.runtime.log import logger, progress
from retrotune.study.config import CorpusEntry
from retrotune.study.raw import find_corpus_files
from retrotune.study.stages import ChunkCorpusParams, ChunkParams

# Where a sentence may end: after . ! ? and closing quotes or brackets, before white space that is not followed by a
# small letter; at a blank line; and before a line that starts a speaker's turn ("Professor E: ").
_BOUNDARY = re.compile(
    r"""(?P<stop>[.!?…]+)['"”’»)\]]*\s+(?![a-zß-ÿ,;:.!?…)\]])"""
    r"""|\n[^\S\n]*\n\s*"""
    r"""|\n(?=[A-Z][\w .'()-]{0,40}:\s)"""
)
_LAST_WORD = re.compile(r"[\w.’'-]+$")
_NEXT_WORD = re.compile(r"[\"'“‘(\[]*([\w]+)")


def _words(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


_ABBREVIATIONS = _words(
    "mr mrs ms messrs mme mlle dr prof st mt ft gen col capt cpt lt sgt cmdr adm maj rev hon gov sen rep pres supt fr",
    "vs e.g i.e cf viz al ca approx inc ltd co corp dept univ bros esq a.d b.c ph.d",
    "jan feb mar apr jun jul aug sep sept oct nov dec",
)
_BEFORE_NUMBER = _words("no nos fig figs eq eqs sec sect ch chap vol vols p pp ed eds art tab ref refs op")
_STARTERS = _words(
    "the this that these those a an it its he she they we you i his her their our my there here in on at as by for",
    "from when while where after before since if although though but and so or however then thus what who why how to",
    "with one some many most all no not yes also",
)


def _is_boundary(text: str, match: re.Match[str]) -> bool:
    """Whether the punctuation of `match` ends a sentence rather than an abbreviation or an initial."""
    if match["stop"] != ".":
        return True
    before = _LAST_WORD.search(text, max(0, match.start() - 30), match.start())
    if before is None:
        return True
    word = before[0]
    following = _NEXT_WORD.match(text, match.end())
    after = following[1] if following else ""
    if word.lower() in _ABBREVIATIONS:
        return False
    if word.lower() in _BEFORE_NUMBER:
        return not after[:1].isdecimal()
    if (len(word) == 1 and word.isupper() and word != "I") or re.fullmatch(r"(?:\w\.)+\w", word):  # J. or U.S.
        return after.lower() in _STARTERS and after != "I"
    return True


def split_sentences(text: str) -> list[str]:
    """Sentences of a text, stripped, none empty: their words in order are the words of the text.

    Rules for English prose, not a model: initials, common abbreviations, decimal numbers and closing quotes do not
    end a sentence too early; blank lines and speakers' turns end one without punctuation.
    """
    sentences, start = list[str](), 0
    for match in _BOUNDARY.finditer(text):
        if match["stop"] is None or _is_boundary(text, match):
            sentences.append(text[start : match.end()].strip())
            start = match.end()
    sentences.append(text[start:].strip())
    return [sentence for sentence in sentences if sentence]


def split_passages(text: str, passage_words: int) -> list[str]:
    """Passages of at most `passage_words` white-space separated words, joined by single spaces, none empty.

    The words of all passages in order are the words of the text.
    """
    if passage_words < 1:
        raise ValueError(f"passage_words={passage_words} must be at least 1")
    passages: list[str] = []
    current: list[str] = []
    for sentence in split_sentences(text):
        words = sentence.split()
        if current and len(current) + len(words) > passage_words:
            passages.append(" ".join(current))
            current = []
        current.extend(words)
        while len(current) > passage_words:  # only a sentence that is longer than a passage gets here
            passages.append(" ".join(current[:passage_words]))
            current = current[passage_words:]
    if current:
        passages.append(" ".join(current))
    return passages


JOINED_BY = b"joined_by"
"""Key of a passage file's metadata: what stands between the texts of a document's passages, " " if it is not said."""
DOCUMENTS_AT_ONCE = 1000


@dataclass(frozen=True)
class TokenChunks:
    """Passages of `passage_tokens` tokens of a tokenizer, a file in tokenizers' JSON format, instead of words."""

    passage_tokens: int
    tokenizer_json: str | Path


Cut = int | TokenChunks
"""Words per passage at most, or chunks of tokens."""


def _cut(params: ChunkParams, tokenizer_json: str | Path | None) -> Cut:
    if params.passage_words is not None:
        return params.passage_words
    assert params.passage_tokens is not None
    assert tokenizer_json is not None
    return TokenChunks(params.passage_tokens, tokenizer_json)


def _passage_schema(cut: Cut) -> Any:
    import pyarrow as pa

    columns = [(name, pa.string()) for name in ("passage_id", "doc_id", "title", "text")]
    return pa.schema(columns, {JOINED_BY: b""} if isinstance(cut, TokenChunks) else None)


def _document_rows(documents: Iterable[Document], cut: Cut) -> Iterator[dict[str, str]]:
    for document, passages in _cut_documents(documents, cut):
        title = squeeze(document.title)
        for number, text in enumerate(passages):
            passage_id = f"{document.doc_id}/{number}"
            yield {"passage_id": passage_id, "doc_id": document.doc_id, "title": title, "text": text}


def _cut_documents(documents: Iterable[Document], cut: Cut) -> Iterator[tuple[Document, list[str]]]:
    if not isinstance(cut, TokenChunks):
        for document in documents:
            yield document, split_passages(document.text, cut)
        return
    tokenizer, stream = open_tokenizer(cut.tokenizer_json), iter(documents)
    while block := list(itertools.islice(stream, DOCUMENTS_AT_ONCE)):
        texts = [document.text for document in block]
        yield from zip(block, split_tokens(tokenizer, texts, cut.passage_tokens), strict=True)


def _article_rows(entry: CorpusEntry, root: str | Path, bad: BadRecords) -> Iterator[dict[str, str]]:
    articles, previous = 0, None
    for passage in read_passages(find_corpus_files(entry, root), bad):
        articles += passage.doc_id != previous
        if entry.max_documents is not None and articles > entry.max_documents:
            return
        previous = passage.doc_id
        yield vars(passage)


def chunk_corpus(
    params: ChunkCorpusParams, root: str | Path, out_passages: str | Path, tokenizer_json: str | Path | None = None
) -> None:
    """Write a corpus' passages as parquet (passage_id, doc_id, title, text) and a `.manifest.json` beside it.

    Text documents are cut into words, or tokens of `tokenizer_json`; DPR passages come as they are, unless their
    articles are cut into tokens. Streamed: memory holds one row group. Raises `DataError` for unreadable files and for
    a corpus without passages.
    """
    entry, cut = params.corpus, _cut(params, tokenizer_json)
    bad = BadRecords(entry.skip_bad_records)
    if entry.reader == "dpr_passages" and not isinstance(cut, TokenChunks):
        rows = _article_rows(entry, root, bad)
    else:
        rows = _document_rows(read_corpus(entry, root, bad), cut)
    count = write_parquet_rows(out_passages, progress(rows, "passages written"), _passage_schema(cut))
    if not count:
        Path(out_passages).unlink()
        raise DataError(f"{Path(root) / entry.path}: holds no passage")
    files = {relative_name(file, root): sha256(file) for file in find_corpus_files(entry, root)}
    manifest = {
        "params": params.recorded(),
        "passages": count,
        "files": files,
        "bad_records": bad.summary(),
    }
    write_json(Path(out_passages).with_suffix(".manifest.json"), manifest)
    logger.info("%s: %d passages, %d bad records skipped", entry.path, count, bad.reasons.total())


def chunk_documents(
    params: ChunkParams, documents: str | Path, out_passages: str | Path, tokenizer_json: str | Path | None = None
) -> None:
    """Cut documents (parquet with doc_id, title, text) into passages of words, or of tokens of `tokenizer_json`.

    Every document gets at least one passage; `DataError` for a document without words.
    """
    cut = _cut(params, tokenizer_json)
    rows = [Document(*row) for row in read_parquet(documents, ["doc_id", "title", "text"]).itertuples(index=False)]
    empty = [document.doc_id for document in rows if not document.text.strip()]
    if empty:
        raise DataError(f"{documents}: empty document {empty[0]!r} ({len(empty)} in all)")
    made = _document_rows(progress(rows, "documents cut into passages"), cut)
    count = write_parquet_rows(out_passages, made, _passage_schema(cut))
    logger.info("%s: %d documents, %d passages", documents, len(rows), count)
