"""QuALITY: multiple-choice questions about long articles and stories."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retrotune.data.corpora.records import (
    BadRecordError,
    BadRecords,
    need,
    need_texts,
    optional,
    read_json_lines,
    squeeze,
)
from retrotune.data.datasets.base import (
    LETTERS,
    SYSTEM,
    DatasetSpec,
    Layout,
    RawFile,
    Record,
    Template,
    make_document,
    make_example,
)
from retrotune.data.datasets.scrolls import scrolls_layout
from retrotune.data.demo.facts import SHIP
from retrotune.data.demo.layouts import Demo, Scenes
from retrotune.data.demo.names import Split
from retrotune.runtime.files import write_jsonl


def _read_quality(file: Path, split: str, bad: BadRecords) -> Iterator[Record]:
    """One article with one writer's questions per line; `gold_label` counts from 1.

    An article comes once per writer: records with the same document are merged by whoever collects them. Types of
    answers are `hard` (`difficult`: most who had little time were wrong, most others right) and `easy`.
    """
    for place, raw in read_json_lines(file, bad):
        with bad.at(place):
            doc_id = need(raw, "article_id", str)
            document = make_document(doc_id, optional(raw, "title", str) or "", need(raw, "article", str))
            placed = []
            for number, entry in enumerate(need(raw, "questions", list)):
                part = f"{place} question {number}"
                with bad.at(part):
                    question_id = need(entry, "question_unique_id", str)
                    options = tuple(squeeze(option) for option in need_texts(entry, "options"))
                    if not 2 <= len(options) <= len(LETTERS):
                        raise BadRecordError(f"a multiple-choice question needs options (it has {len(options)})")
                    if "gold_label" not in entry:
                        raise BadRecordError(f"no answers (question {question_id!r} has no gold_label)")
                    gold = need(entry, "gold_label", int)
                    if not 1 <= gold <= len(options):
                        raise BadRecordError(f"gold_label is no option (it is {gold} of {len(options)})")
                    question = need(entry, "question", str)
                    types = _type(entry)
                    example = make_example(question_id, question, [options[gold - 1]], doc_id, options, types=types)
                    placed.append((part, example))
            yield Record(tuple(placed), document)


def _type(entry: Any) -> tuple[str, ...]:
    """Whether a question belongs to the hard subset; nothing where the record does not say so."""
    difficult = optional(entry, "difficult", int)
    if difficult not in (None, 0, 1):
        raise BadRecordError(f"difficult is neither 0 nor 1 (it is {difficult})")
    return () if difficult is None else ("hard",) if difficult else ("easy",)


def write_demo(folder: Path, scenes: Scenes, rng: random.Random) -> None:
    """QuALITY: `QuALITY.v1.0.1.htmlstripped.{train,dev}`, four options; dev is the test set."""
    names: dict[Split, str] = {"train": "train", "test": "dev"}
    for split, name in names.items():
        articles = []
        for number, scene in enumerate(scenes[split]):
            unique = f"demo-{name}-{number}_DEMO"
            questions = []
            for index, question in enumerate(scene.questions, start=1):
                options = [question.fact.answer, *question.distractors]
                rng.shuffle(options)
                gold = options.index(question.fact.answer) + 1
                questions.append(
                    {
                        "question": question.text,
                        "question_unique_id": f"{unique}_{index}",
                        "options": options,
                        "writer_label": gold,
                        "gold_label": gold,
                        "validation": [],
                        "speed_validation": [],
                        "difficult": 0,
                    }
                )
            articles.append(
                {
                    "article_id": f"demo-{name}-{number}",
                    "set_unique_id": unique,
                    "batch_num": "",
                    "writer_id": "",
                    "source": "retrotune demo world",
                    "title": scene.title,
                    "year": None,
                    "author": "",
                    "topic": "",
                    "article": "\n\n".join([scene.intro, *(page.text for page in scene.pages)]),
                    "questions": questions,
                    "url": "",
                    "license": "Apache-2.0",
                }
            )
        write_jsonl(folder / f"QuALITY.v1.0.1.htmlstripped.{name}", articles)


_CHOOSE = "{question} Choose one based on the following options: {options}"

SPEC = DatasetSpec(
    name="quality",
    version=2,
    citation="Pang et al. 2022, QuALITY: Question Answering with Long Input Texts, Yes! (arXiv 2112.08608)",
    open_domain=False,
    metrics=("accuracy", "parsable", "exact_match"),
    max_new_tokens=100,
    layouts={
        # The test labels were never released: papers report dev.
        "official": Layout(
            ("QuALITY.v*.htmlstripped.{split}", "*/QuALITY.v*.htmlstripped.{split}"),
            train="train",
            test=("dev",),
            read=_read_quality,
            download=(
                RawFile(
                    "https://github.com/nyu-mll/quality/raw/main/data/v1.0.1/QuALITY.v1.0.1.zip",
                    "QuALITY.v1.0.1.zip",
                    members=("QuALITY.*.htmlstripped.train", "QuALITY.*.htmlstripped.dev"),
                ),
            ),
        ),
        "scrolls": scrolls_layout("quality", multiple_choice=True),
    },
    templates={
        # options are sentences, sometimes several
        "base": Template(question=f"Question: {_CHOOSE} Answer: The answer is", cut_at_period=False),
        "instruct": Template(
            system=SYSTEM,
            question=f"User: {_CHOOSE}\n\nAssistant: The answer is",
            cut_at_period=False,
            answer_ends="blank_line",
        ),
    },
    demo=Demo(SHIP, ("train", "test"), write_demo),
)
