"""The SCROLLS release of the four long-document datasets (Shaham et al. 2022, arXiv 2201.03533)."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from retrotune.data.corpora.records import (
    BadRecordError,
    BadRecords,
    check_unicode,
    need,
    optional,
    read_json_lines,
    squeeze,
)
from retrotune.data.datasets.base import Layout, RawFile, Record, any_answer, make_document, make_example
from retrotune.runtime.files import sha256_text

_RELEASE = "https://huggingface.co/datasets/tau/scrolls/resolve/main"
_MEMBERS = ("train.jsonl", "validation.jsonl", "test.jsonl")
_OPTION = re.compile(r"^\s*\(([A-Z])\)\s*", re.MULTILINE)


def _has_outputs(file: Path, split: str) -> bool:
    """The release withholds test outputs (null); its validation split then takes the place of the test split."""
    return any_answer(_is_answered(raw) for _, raw in read_json_lines(file, BadRecords(skip=True)))


def _is_answered(raw: Any) -> bool | None:
    """Whether a record has an answer; None if it is malformed."""
    try:
        need(raw, "input", str)
        return bool(optional(raw, "output", str))
    except BadRecordError:
        return None


def split_input(text: str, multiple_choice: bool) -> tuple[str, tuple[str, ...], str]:
    """Question, options and document of an `input`, which separates them by blank lines."""
    question, separator, rest = text.partition("\n\n")
    if not separator:
        raise BadRecordError("no blank line between question and document")
    if not multiple_choice:
        return question, (), rest
    block, separator, document = rest.partition("\n\n")
    options = tuple(squeeze(option) for option in _OPTION.split(block)[2::2])
    if not separator or len(options) < 2:
        raise BadRecordError("no block of lettered options after the question")
    return question, options, document


class _Line(NamedTuple):
    """One reference of a question; `output` is empty where the release withholds it."""

    place: str
    question_id: str
    input: str
    output: str


def _read_lines(file: Path, bad: BadRecords) -> Iterator[_Line]:
    for place, raw in read_json_lines(file, bad):
        with bad.at(place):
            line = _Line(place, need(raw, "id", str), need(raw, "input", str), optional(raw, "output", str) or "")
            check_unicode(f"question {line.question_id!r}", line.input)
            yield line


def _read(file: Path, bad: BadRecords, multiple_choice: bool) -> Iterator[Record]:
    """One line per reference: lines with the same `id` are one question. Documents are known by their text."""
    for question_id, lines in itertools.groupby(_read_lines(file, bad), key=lambda line: line.question_id):
        first, *others = lines
        with bad.at(first.place):
            question, options, text = split_input(first.input, multiple_choice)
            doc_id = sha256_text(text.strip())[:16]
            answers = [line.output for line in (first, *others)]
            example = make_example(question_id, question, answers, doc_id, options)
            if options and not set(example.answers) <= set(options):
                raise BadRecordError(f"an output is none of the options (question {question_id!r})")
            yield Record(((first.place, example),), make_document(doc_id, "", text))


def scrolls_layout(task: str, multiple_choice: bool = False) -> Layout:
    """The SCROLLS layout of a task: `{train,validation,test}.jsonl`, also in a folder of the task's name."""
    return Layout(
        ("{split}.jsonl", f"{task}/{{split}}.jsonl"),
        train="train",
        test=("test", "validation"),
        read=lambda file, split, bad: _read(file, bad, multiple_choice),
        usable=_has_outputs,
        download=(RawFile(f"{_RELEASE}/{task}.zip", f"{task}.zip", members=_MEMBERS),),
    )
