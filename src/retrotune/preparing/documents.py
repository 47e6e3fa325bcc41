"""Documents of plain-text corpora: whole files, paragraphs, or WikiText articles."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from retrotune.data.corpora.dpr import read_articles
from retrotune.data.corpora.records import BadRecords, Document, check_unicode, numbered_lines, relative_name
from retrotune.errors import DataError
from retrotune.study.config import CorpusEntry
from retrotune.study.raw import find_corpus_files

_HEADING = re.compile(r"\s*= (?!= )(.+?) =\s*$")


def count_bad(corpora: Mapping[str, CorpusEntry]) -> dict[str, BadRecords]:
    """A counter of bad records for each corpus, to be filled by `read_corpus`."""
    return {name: BadRecords(entry.skip_bad_records) for name, entry in corpora.items()}


def read_corpus(entry: CorpusEntry, root: str | Path, bad: BadRecords | None = None) -> Iterator[Document]:
    """Documents of a corpus, streamed in a stable order, at most `max_documents`.

    Ids of text documents are the file's path below `root`, followed by `#number` if a file holds several. The articles
    of a `dpr_passages` corpus are its documents. Bytes that are not UTF-8, an empty document and a missing file are
    `DataError`s with file and line; with `skip_bad_records` the first two are counted in `bad` instead.
    """
    bad = bad or BadRecords(entry.skip_bad_records)
    if entry.reader == "dpr_passages":
        documents = read_articles(find_corpus_files(entry, root), bad)
    else:
        documents = _text_documents(entry, Path(root), bad)
    count = 0
    for document in documents:
        if count == entry.max_documents:
            return
        count += 1
        yield document
    if not count:
        raise DataError(f"{Path(root) / entry.path}: holds no document")


def _text_documents(entry: CorpusEntry, root: Path, bad: BadRecords) -> Iterator[Document]:
    split = {"file": _whole_file, "paragraph": _paragraphs, "wikitext": _wikitext_articles}[entry.documents]
    for file in find_corpus_files(entry, root):
        name = relative_name(file, root)
        with bad.at(file):
            check_unicode("in the file's name", name)
            for number, line, title, text in split(file, numbered_lines(file, bad)):
                doc_id = name if entry.documents == "file" else f"{name}#{number}"
                if not text.strip():
                    bad.add(f"{file}:{line}", "empty document")
                    continue
                yield Document(doc_id, title, text.strip())


Piece = tuple[int, int, str, str]
"""Number within the file, first line, title, text."""


def _whole_file(file: Path, lines: Iterable[tuple[int, str]]) -> Iterator[Piece]:
    yield 0, 1, file.name.split(".")[0].replace("_", " "), "".join(line for _, line in lines)


def _paragraphs(file: Path, lines: Iterable[tuple[int, str]]) -> Iterator[Piece]:
    number, start, paragraph = 0, 1, list[str]()
    for at, line in lines:
        if line.strip():
            if not paragraph:
                start = at
            paragraph.append(line)
        elif paragraph:
            yield number, start, "", "".join(paragraph)
            number, paragraph = number + 1, []
    if paragraph:
        yield number, start, "", "".join(paragraph)


def _wikitext_articles(file: Path, lines: Iterable[tuple[int, str]]) -> Iterator[Piece]:
    """Articles between level-1 headings, ` = Title = ` after a blank line; text before the first heading is no article.

    An article consisting of its heading only is an empty document.
    """
    number, start, title, article, blank = 0, 1, "", list[str](), True
    for at, line in lines:
        heading = _HEADING.match(line) if blank else None
        if heading:
            if title:
                yield number, start, title, "".join(article)
                number += 1
            start, title, article = at, heading[1], []
        else:
            article.append(line)
        blank = not line.strip()
    if title:
        yield number, start, title, "".join(article)
