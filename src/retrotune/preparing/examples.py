"""The stage from raw files to examples and documents, the same tables for every dataset."""

from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

from retrotune.config import DatasetEntry
from retrotune.corpus.records import BadRecords, relative_name
from retrotune.datasets import get_spec
from retrotune.datasets.base import Example, Record
from retrotune.errors import ConfigError, DataError
from retrotune.files import read_parquet, sha256, write_json, write_parquet_rows
from retrotune.log import logger
from retrotune.stages import STAGE_VERSIONS


def raw_files(entry: DatasetEntry, root: str | Path) -> list[Path]:
    """Files and folders below `root` that preparing `entry` would read, as far as they are there.

    Both splits' files (of all that could serve as the test split, as which one does is known only after reading), and
    what belongs beside them. If there are none, the entry's own path, for the caller to report. Reads no file.
    """
    layout = get_spec(entry.reader).layout(entry.layout)
    path = Path(root) / entry.path
    splits = layout.test if entry.max_train == 0 else (layout.train, *layout.test)
    files = [file for file in (layout.find(path, split) for split in splits) if file is not None]
    companions = [file.parent / name for file in files for name in layout.companions]
    return list(dict.fromkeys([*files, *(file for file in companions if file.exists())])) or [path]


class _Split:
    """The first `limit` examples of a raw split; as they are read, `documents` yields the documents they refer to."""

    def __init__(self, records: Iterable[Record], limit: int | None, bad: BadRecords, file: Path) -> None:
        self.examples: list[Example] = []
        self.files: set[Path] = {file}
        self.places: dict[str, object] = {}
        self.overlap = 0
        self.file = file
        self._records, self._limit, self._bad = records, limit, bad

    def documents(
        self, taken: Container[tuple[str, str | None]], ids: Container[str], texts: dict[str, int]
    ) -> Iterator[dict[str, str]]:
        """Read the split. `taken` and `ids` are the questions of the test split and their ids, `texts` the documents of
        all splits so far.
        """
        for record in self._records:
            kept = list(self._kept(record, taken, ids))
            self.examples.extend(kept)
            if kept:
                self.files.update(record.files)
            document = record.document
            if kept and document is not None:
                if document.doc_id not in texts:
                    texts[document.doc_id] = hash(document.text)
                    yield vars(document)
                elif texts[document.doc_id] != hash(document.text):
                    self._bad.notes["documents given again with another text (the first is kept)"] += 1
            if self._limit is not None and len(self.examples) >= self._limit:
                return

    def _kept(self, record: Record, taken: Container[tuple[str, str | None]], ids: Container[str]) -> Iterator[Example]:
        room = None if self._limit is None else self._limit - len(self.examples)
        for place, example in record.placed:
            if room is not None and room <= 0:
                return
            if example.question_id in ids or question_key(example) in taken:
                self.overlap += 1
                continue
            first = self.places.setdefault(example.question_id, place)
            if first is not place:
                self._bad.add(place, f"question id used twice ({example.question_id!r}, first at {first})")
                continue
            room = None if room is None else room - 1
            yield example


def question_key(example: Example) -> tuple[str, str | None]:
    """What makes two questions the same: their words without case, and their document."""
    return example.question.casefold().rstrip(" ?"), example.doc_id


def prepare_examples(
    entry: DatasetEntry,
    root: str | Path,
    out_train: str | Path,
    out_test: str | Path,
    out_documents: str | Path | None = None,
) -> None:
    """Read a dataset's raw files below `root` and write its examples and documents as parquet.

    Examples: question_id, question, answers, doc_id, options, evidence. Documents (only of datasets that have them, and
    those that a kept question refers to): doc_id, title, text. `manifest.json` beside `out_test` says which files were
    read (sha256), which raw split serves as the test split, and what was left out and why. Training questions that are
    also test questions are dropped and counted. Raises `DataError` with file and line for anything that cannot be used.
    """
    spec = get_spec(entry.reader)
    if (out_documents is None) != spec.open_domain:
        raise ConfigError(
            f"dataset {spec.name}: out_documents is for datasets with documents of their own, only and always"
        )
    layout = spec.layout(entry.layout)
    path = Path(root) / entry.path
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; put the files of {spec.name} there or set data_root")
    bad = {"train": BadRecords(entry.skip_bad_records), "test": BadRecords(entry.skip_bad_records)}
    test_split, test_file = layout.find_test(path)
    test = _Split(layout.read(test_file, test_split, bad["test"]), entry.max_test, bad["test"], test_file)
    if entry.max_train == 0:
        train_split, train = None, _Split((), 0, bad["train"], test_file)
    else:
        train_split, train_file = layout.find_train(path)
        train = _Split(layout.read(train_file, train_split, bad["train"]), entry.max_train, bad["train"], train_file)

    documents = 0

    def rows() -> Iterator[dict[str, str]]:
        nonlocal documents
        texts = dict[str, int]()
        for document in test.documents((), (), texts):
            documents += 1
            yield document
        for document in train.documents({question_key(example) for example in test.examples}, test.places, texts):
            documents += 1
            yield document

    if out_documents is None:
        for _ in rows():
            pass
    else:
        write_parquet_rows(out_documents, rows(), _document_schema(), group_rows=500)
    for name, split, wanted in (("test", test, True), ("train", train, entry.max_train != 0)):
        if wanted and not split.examples:
            raise DataError(
                f"{split.file}: no usable {name} questions ({split.overlap} are test questions, "
                f"{bad[name].reasons.total()} bad records {dict(bad[name].reasons)}); is it the right file?"
            )
    write_examples(out_train, train.examples)
    write_examples(out_test, test.examples)
    manifest = {
        "stage_version": STAGE_VERSIONS["prepare_examples"],
        "dataset": spec.name,
        "dataset_version": spec.version,
        "layout": entry.layout,
        "raw_splits": {"train": train_split, "test": test_split},
        "questions": {"train": len(train.examples), "test": len(test.examples)},
        "documents": documents,
        "train_questions_dropped_as_test_questions": train.overlap,
        "bad_records": {name: records.summary() for name, records in bad.items()},
        "files": {relative_name(file, root): sha256(file) for file in sorted(test.files | train.files)},
    }
    write_json(Path(out_test).parent / "manifest.json", manifest)
    logger.info("%s: %s questions, %d documents", spec.name, manifest["questions"], documents)


def _document_schema() -> Any:
    import pyarrow as pa

    return pa.schema([(name, pa.string()) for name in ("doc_id", "title", "text")])


def write_examples(path: str | Path, examples: Iterable[Example]) -> None:
    """Write examples as parquet, atomically."""
    import pyarrow as pa

    texts = pa.list_(pa.string())
    columns = {
        "question_id": pa.string(),
        "question": pa.string(),
        "answers": texts,
        "doc_id": pa.string(),
        "options": texts,
        "evidence": texts,
    }
    lists = ("answers", "options", "evidence")
    rows = ({**vars(example), **{name: list(getattr(example, name)) for name in lists}} for example in examples)
    write_parquet_rows(path, rows, pa.schema(list(columns.items())))


def load_examples(path: str | Path) -> list[Example]:
    """The examples that `prepare_examples` wrote; `DataError` with the remedy if the file is missing or damaged."""
    columns = ["question_id", "question", "answers", "doc_id", "options", "evidence"]
    return [
        Example(name, question, tuple(answers), doc_id if isinstance(doc_id, str) else None, *map(tuple, lists))
        for name, question, answers, doc_id, *lists in read_parquet(path, columns).itertuples(index=False)
    ]
