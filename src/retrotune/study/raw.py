"""Which raw files a study reads: those of a dataset's splits, and those of a corpus. None is opened here."""

import glob
import re
from collections.abc import Iterable
from pathlib import Path

from retrotune.data.corpora.records import relative_name
from retrotune.errors import DataError
from retrotune.study.config import CorpusEntry, DatasetEntry

TEXT_PATTERNS = ("*.txt", "*.text", "*.md", "*.tokens", "*.raw", "*.txt.gz")
PASSAGE_FILES = ("psgs_w100.tsv.gz", "psgs_w100.tsv")
PASSAGE_PATTERNS = ("*.tsv.gz", "*.tsv")


def raw_files(entry: DatasetEntry, root: str | Path, split: str) -> list[Path]:
    """Files and folders below `root` that preparing a split reads, as far as they are there.

    For training they are those of the test split too. If there are none, the entry's own path, for the caller to
    report. Reads no file.
    """
    splits = ("test",) if split == "test" or entry.max_train == 0 else ("train", "test")
    files = [file for name in splits for file in split_files(entry, root, name)]
    return list(dict.fromkeys(files)) or [Path(root) / entry.path]


def split_files(entry: DatasetEntry, root: str | Path, split: str) -> list[Path]:
    """Files and folders with a split's questions and documents; of all files that could serve as the test split.

    Which one does is known only after reading.
    """
    layout = entry.record.layout(entry.layout)
    names = layout.test if split == "test" else (layout.train,)
    files = [file for name in names if (file := layout.find(Path(root) / entry.path, name)) is not None]
    companions = [file.parent / name for file in files for name in layout.companions]
    return [*files, *(file for file in companions if file.exists())]


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
        matches = (Path(root) / name for name in glob.glob(entry.path, root_dir=root, recursive=True))  # noqa: PTH207
        files = sorted(match for match in matches if match.is_file())
        wanted = "file, folder or glob match"
    elif entry.reader == "text":
        files, wanted = _files_below(base, TEXT_PATTERNS), f"files {', '.join(TEXT_PATTERNS)}"
    else:
        files, wanted = _passage_files(base), f"file {', '.join((*PASSAGE_FILES, *PASSAGE_PATTERNS))}"
    if not files:
        raise DataError(f"{base}: no {wanted}; put the corpus there or correct `path` and `data_root`")
    braces = [str(file) for file in files if re.search("[{}]", str(file))]
    if braces:
        raise DataError(f"{braces[0]}: braces are wildcards for Snakemake; rename this file or folder")
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
