"""The SCROLLS release of the four long-document datasets (Shaham et al. 2022, arXiv 2201.03533)."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retrotune.corpus.records import BadRecordError, BadRecords, need, read_json_lines, squeeze
from retrotune.datasets.base import Layout, Record, make_document, make_example
from retrotune.files import sha256_text

_OPTION = re.compile(r"^\s*\(([A-Z])\)\s*", re.MULTILINE)


def _has_outputs(file: Path, split: str) -> bool:
    """The release withholds test outputs (null); its validation split then takes the place of the test split."""
    for _, record in read_json_lines(file, BadRecords(skip=True)):
        return not isinstance(record, dict) or record.get("output") is not None
    return True  # an empty or broken file is reported when it is read


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


def _read(file: Path, bad: BadRecords, multiple_choice: bool) -> Iterator[Record]:
    """One line per reference: lines with the same `id` are one question. Documents are known by their text."""

    def identity(placed: tuple[str, Any]) -> Any:
        return placed[1].get("id") if isinstance(placed[1], dict) else placed[0]

    for _, lines in itertools.groupby(read_json_lines(file, bad), key=identity):
        placed = list(lines)
        place, raw = placed[0]
        with bad.at(place):
            question_id = need(raw, "id", str)
            question, options, text = split_input(need(raw, "input", str), multiple_choice)
            doc_id = sha256_text(text.strip())[:16]
            answers = [record["output"] for _, record in placed if record.get("output") is not None]
            example = make_example(question_id, question, answers, doc_id, options)
            if options and example.answers[0] not in options:
                raise BadRecordError(f"the output is none of the options (question {question_id})")
            yield Record((example,), make_document(doc_id, "", text))


def scrolls_layout(task: str, multiple_choice: bool = False) -> Layout:
    """The SCROLLS layout of a task: `{train,validation,test}.jsonl`, also in a folder of the task's name."""
    return Layout(
        ("{split}.jsonl", f"{task}/{{split}}.jsonl"),
        train="train",
        test=("test", "validation"),
        read=lambda file, split, bad: _read(file, bad, multiple_choice),
        usable=_has_outputs,
    )
