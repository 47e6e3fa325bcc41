"""Documents of plain-text corpora: whole files, paragraphs, or WikiText articles."""

import glob
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from retrotune.config import CorpusEntry
from retrotune.corpus.dpr import read_articles
from retrotune.corpus.records import BadRecords, Document, check_unicode, numbered_lines, relative_name
from retrotune.errors import DataError

TEXT_PATTERNS = ("*.txt", "*.text", "*.md", "*.tokens", "*.raw", "*.txt.gz")
PASSAGE_FILES = ("psgs_w100.tsv.gz", "psgs_w100.tsv")
PASSAGE_PATTERNS = ("*.tsv.gz", "*.tsv")
_HEADING = re.compile(r"\s*= (?!= )(.+?) =\s*$")


def corpus_files(entry: CorpusEntry, root: str | Path) -> list[Path]:
    """Files of a corpus as `find_corpus_files` gives them; if it finds none, the entry's own path, to be reported."""
    try:
        return find_corpus_files(entry, root)
    except DataError:
        return [Path(root) / entry.path]


def find_corpus_files(entry: CorpusEntry, root: str | Path) -> list[Path]:
    """Files of a corpus in the order of their names; `path` is a file, a folder or a glob below `root`.

    A folder with passages is read from one file: `psgs_w100.tsv.gz`, `psgs_w100.tsv`, else the only one there is.
    Raises `DataError` naming what was looked for if there is none, and the candidates if there are several.
    """
    base = Path(root) / entry.path
    if base.is_file():
        return [base]
    if not base.is_dir():
        files = sorted(Path(name) for name in glob.glob(str(base), recursive=True) if Path(name).is_file())  # noqa: PTH207
        wanted = "file, folder or glob match"
    elif entry.reader == "text":
        files, wanted = _files_below(base, TEXT_PATTERNS), f"files {', '.join(TEXT_PATTERNS)}"
    else:
        files, wanted = _passage_files(base), f"file {', '.join((*PASSAGE_FILES, *PASSAGE_PATTERNS))}"
    if not files:
        raise DataError(f"{base}: no {wanted}; put the corpus there or correct `path` and `data_root`")
    return files


def _files_below(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """Files that match, hidden ones and those in hidden folders left out, in the order of their names."""
    files = {file for pattern in patterns for file in folder.rglob(pattern) if file.is_file()}
    return sorted(file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts))


def _passage_files(folder: Path) -> list[Path]:
    """The passage file of a folder, alone in a list that is empty if there is none."""
    for name in PASSAGE_FILES:
        if (folder / name).is_file():
            return [folder / name]
    files = _files_below(folder, PASSAGE_PATTERNS)
    if len(files) > 1:
        names = ", ".join(relative_name(file, folder) for file in files)
        raise DataError(f"{folder}: several passage files ({names}); name one of them in `path`")
    return files


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
