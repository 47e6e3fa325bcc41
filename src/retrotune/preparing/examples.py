"""From a dataset's raw files to questions, references and documents of a split: the same tables for every dataset."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from retrotune.data.corpora.records import BadRecords, relative_name
from retrotune.data.datasets import get_spec
from retrotune.data.datasets.base import Example, Record, Reference
from retrotune.errors import DataError
from retrotune.runtime.files import read_parquet, sha256, write_json, write_parquet_rows
from retrotune.runtime.log import logger
from retrotune.study.stages import PrepareParams


class _Held:
    """Questions that training questions must not be: their words with their documents, and their ids."""

    def __init__(self, examples: Iterable[Example] = ()) -> None:
        self.ids, self.keys = set[str](), set[tuple[str, str | None]]()
        for example in examples:
            self.ids.add(example.question_id)
            self.keys.add(question_key(example))

    @classmethod
    def of(cls, records: Iterable[Record]) -> "_Held":
        """All questions of a raw split."""
        return cls(example for record in records for _, example in record.placed)

    def __contains__(self, example: Example) -> bool:
        return example.question_id in self.ids or question_key(example) in self.keys


class _Split:
    """The first `limit` examples of a raw split; as they are read, `documents` yields the documents they refer to."""

    def __init__(self, records: Iterable[Record], limit: int | None, bad: BadRecords, file: Path) -> None:
        self.examples: list[Example] = []
        self.files: set[Path] = {file}
        self.overlap = 0
        self.file = file
        self._places: dict[str, object] = {}
        self._records, self._limit, self._bad = records, limit, bad

    def documents(self, held: _Held) -> Iterator[dict[str, str]]:
        """Read the split, without the questions that are `held` back."""
        texts = dict[str, int]()
        for record in self._records:
            kept = list(self._kept(record, held))
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

    def _kept(self, record: Record, held: _Held) -> Iterator[Example]:
        room = None if self._limit is None else self._limit - len(self.examples)
        for place, example in record.placed:
            if room is not None and room <= 0:
                return
            if example in held:
                self.overlap += 1
                continue
            first = self._places.setdefault(example.question_id, place)
            if first is not place:
                self._bad.add(place, f"question id used twice ({example.question_id!r}, first at {first})")
                continue
            room = None if room is None else room - 1
            yield example


def question_key(example: Example) -> tuple[str, str | None]:
    """What makes two questions the same: their words without case, and their document."""
    return example.question.casefold().rstrip(" ?"), example.doc_id


def prepare_examples(
    params: PrepareParams,
    root: str | Path,
    out_examples: str | Path,
    out_references: str | Path,
    out_documents: str | Path,
) -> None:
    """Read one split of a dataset's raw files below `root`; write its questions, references and documents as parquet.

    Questions: question_id, question, doc_id, options and, of the training split only, the answer to learn. References,
    which only scoring and measures of retrieval read: question_id, doc_id, answers, types, options, evidence. Documents
    (those that a question refers to, none of an open-domain dataset): doc_id, title, text. `{split}.manifest.json`
    beside them says which files were read (sha256), which raw split it is, and what was left out and why.

    Training questions that are also questions of the raw test split, used or not, are dropped and counted. A bad record
    of that split cannot be compared, which is counted and logged. Raises `DataError` with file and line for anything
    that cannot be used.
    """
    spec = get_spec(params.reader)
    layout = spec.layout(params.layout)
    path = Path(root) / params.path
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; put the files of {spec.name} there or set data_root")
    # a bad test record is an error where test questions are prepared, if it is among those that are used
    bad, bad_held = BadRecords(params.skip_bad_records), BadRecords(skip=True)
    test_split, test_file = layout.find_test(path)
    if params.split == "test":
        raw_split, file, held = test_split, test_file, _Held()
    elif params.limit == 0:
        raw_split, file, held = None, test_file, _Held()
    else:
        raw_split, file = layout.find_train(path)
        held = _Held.of(layout.read(test_file, test_split, bad_held))
    records = () if raw_split is None else layout.read(file, raw_split, bad)
    split = _Split(records, params.limit, bad, file)
    documents = write_parquet_rows(out_documents, split.documents(held), _document_schema(), group_rows=500)
    if raw_split is not None and not split.examples:
        raise DataError(
            f"{split.file}: no usable {params.split} questions ({split.overlap} are test questions, "
            f"{bad.reasons.total()} bad records {dict(bad.reasons)}); is it the right file?"
        )
    write_examples(out_examples, split.examples, with_answer=params.split == "train")
    write_references(out_references, split.examples)
    manifest = {
        "params": params.recorded(),
        "raw_split": raw_split,
        "questions": len(split.examples),
        "documents": documents,
        "dropped_as_test_questions": split.overlap,
        "bad_test_records_not_compared": bad_held.reasons.total(),
        "bad_records": bad.summary(),
        "files": {relative_name(file, root): sha256(file) for file in sorted(split.files)},
    }
    write_json(Path(out_examples).with_suffix(".manifest.json"), manifest)
    logger.info("%s %s: %d questions, %d documents", spec.name, params.split, len(split.examples), documents)
    if count := bad_held.reasons.total():
        logger.warning("%s: %d bad records were not held against training questions", test_file, count)


def _document_schema() -> Any:
    import pyarrow as pa

    return pa.schema([(name, pa.string()) for name in ("doc_id", "title", "text")])


def write_examples(path: str | Path, examples: Iterable[Example], with_answer: bool) -> None:
    """Write questions as parquet, atomically; `with_answer`, those to learn: the first answer goes along."""
    import pyarrow as pa

    columns = {
        "question_id": pa.string(),
        "question": pa.string(),
        "doc_id": pa.string(),
        "options": pa.list_(pa.string()),
        "answer": pa.string(),
    }
    rows = (
        {
            "question_id": example.question_id,
            "question": example.question,
            "doc_id": example.doc_id,
            "options": list(example.options),
            "answer": example.answers[0] if with_answer else None,
        }
        for example in examples
    )
    write_parquet_rows(path, rows, pa.schema(list(columns.items())))


def write_references(path: str | Path, examples: Iterable[Example]) -> None:
    """Write what answers are held against as parquet, atomically."""
    import pyarrow as pa

    lists = ("answers", "types", "options", "evidence")
    columns = [(name, pa.list_(pa.string()) if name in lists else pa.string()) for name in _REFERENCE]
    rows = (
        {name: list(getattr(example, name)) if name in lists else getattr(example, name) for name in _REFERENCE}
        for example in examples
    )
    write_parquet_rows(path, rows, pa.schema(columns))


_REFERENCE = ("question_id", "doc_id", "answers", "types", "options", "evidence")


def load_examples(path: str | Path) -> list[Example]:
    """The questions that `prepare_examples` wrote; `answers` holds the one to learn, or none.

    Raises `DataError` with the remedy if the file is missing or damaged.
    """
    columns = ["question_id", "question", "doc_id", "options", "answer"]
    return [
        Example(name, question, (answer,) if isinstance(answer, str) else (), _text(doc_id), tuple(options))
        for name, question, doc_id, options, answer in read_parquet(path, columns).itertuples(index=False)
    ]


def load_references(path: str | Path) -> dict[str, Reference]:
    """The references that `prepare_examples` wrote, by question id; raises as `load_examples` does."""
    rows = read_parquet(path, list(_REFERENCE)).itertuples(index=False)
    return {name: Reference(name, _text(doc_id), *map(tuple, lists)) for name, doc_id, *lists in rows}


def with_references(examples: Sequence[Example], path: str | Path) -> list[Example]:
    """Questions with all their answers and evidence; `DataError` naming one that the references miss."""
    references = load_references(path)
    missing = [example.question_id for example in examples if example.question_id not in references]
    if missing:
        raise DataError(
            f"{path}: no references for {len(missing)} of {len(examples)} questions, first {missing[0]!r}; delete it "
            "and run again to rebuild it"
        )
    return [
        dataclasses.replace(example, answers=found.answers, types=found.types, evidence=found.evidence)
        for example, found in ((example, references[example.question_id]) for example in examples)
    ]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
