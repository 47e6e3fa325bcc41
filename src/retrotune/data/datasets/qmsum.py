"""QMSum: query-based summarization of meetings."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retrotune.data.corpora.records import BadRecordError, BadRecords, need, optional, read_json_lines, squeeze
from retrotune.data.datasets.base import (
    BASE,
    GITHUB,
    INSTRUCT_LONG,
    DatasetSpec,
    Layout,
    RawFile,
    Record,
    any_answer,
    make_document,
    make_example,
)
from retrotune.data.datasets.scrolls import scrolls_layout
from retrotune.data.demo.facts import COLLEAGUE
from retrotune.data.demo.layouts import Demo, Scenes
from retrotune.data.demo.names import Split
from retrotune.data.demo.scenes import listing
from retrotune.data.scores import ROUGES, STEMMED
from retrotune.runtime.files import write_jsonl

_QUERIES = ("general_query_list", "specific_query_list")


def _has_answers(file: Path, split: str) -> bool:
    meetings = read_json_lines(file, BadRecords(skip=True))
    return any_answer(_is_answered(query) for _, meeting in meetings for query in _queries(meeting))


def _queries(meeting: Any) -> Iterator[Any]:
    if isinstance(meeting, dict):
        for kind in _QUERIES:
            queries = meeting.get(kind)
            yield from queries if isinstance(queries, list) else ()


def _is_answered(query: Any) -> bool | None:
    """Whether a query has an answer; None if it is malformed."""
    try:
        need(query, "query", str)
        return bool(optional(query, "answer", str))
    except BadRecordError:
        return None


def _read_qmsum(file: Path, split: str, bad: BadRecords) -> Iterator[Record]:
    """One meeting per line: the transcript as lines `speaker: text`, general queries, then specific ones.

    Meetings carry no ids: the line's number makes the ids, `split:line` and `split:line:g0` or `:s0`.
    """
    for place, raw in read_json_lines(file, bad):
        with bad.at(place):
            doc_id = f"{split}:{place.rsplit(':', 1)[1]}"
            turns = [
                f"{squeeze(need(turn, 'speaker', str))}: {squeeze(need(turn, 'content', str))}"
                for turn in need(raw, "meeting_transcripts", list)
            ]
            document = make_document(doc_id, "", "\n".join(turns))
            placed = []
            for kind in _QUERIES:
                for number, query in enumerate(need(raw, kind, list)):
                    part = f"{place} {kind} {number}"
                    with bad.at(part):
                        question_id = f"{doc_id}:{kind[0]}{number}"
                        answers = [optional(query, "answer", str) or ""]
                        placed.append((part, make_example(question_id, need(query, "query", str), answers, doc_id)))
            yield Record(tuple(placed), document)


def write_demo(folder: Path, scenes: Scenes, rng: random.Random) -> None:
    """QMSum: `ALL/jsonl/{train,val,test}.jsonl`. The chair names whose plans are heard, then one turn per page.

    Summaries are one sentence. There is one general query per meeting, the others are specific.
    """
    names: dict[Split, str] = {"train": "train", "dev": "val", "test": "test"}
    for split, name in names.items():
        meetings = []
        for scene in scenes[split]:
            subjects = listing([page.subject for page in scene.pages])
            turns = [{"speaker": "Chair", "content": scene.intro}]
            turns += [{"speaker": page.speaker, "content": page.text} for page in scene.pages]
            meetings.append(
                {
                    "topic_list": [
                        {"topic": f"The plans of {page.subject}", "relevant_text_span": [[str(turn), str(turn)]]}
                        for turn, page in enumerate(scene.pages, start=1)
                    ],
                    "general_query_list": [
                        {
                            "query": "Summarize the whole meeting",
                            "answer": f"The meeting heard about the plans of {subjects}.",
                        }
                    ],
                    "specific_query_list": [
                        {
                            "query": question.text,
                            "answer": f"{question.fact.answer}.",
                            "relevant_text_span": [[str(question.page + 1), str(question.page + 1)]],
                        }
                        for question in scene.questions
                    ],
                    "meeting_transcripts": turns,
                }
            )
        write_jsonl(folder / "ALL" / "jsonl" / f"{name}.jsonl", meetings)


SPEC = DatasetSpec(
    name="qmsum",
    version=1,
    citation="Zhong et al. 2021, QMSum (arXiv 2104.05938)",
    open_domain=False,
    metrics=("rouge_geometric", *ROUGES, "rouge_arithmetic_stemmed", *STEMMED),
    max_new_tokens=256,
    layouts={
        "official": Layout(
            ("ALL/jsonl/{split}.jsonl", "data/ALL/jsonl/{split}.jsonl", "jsonl/{split}.jsonl", "{split}.jsonl"),
            train="train",
            test=("test", "val"),
            read=_read_qmsum,
            usable=_has_answers,
            download=tuple(
                RawFile(f"{GITHUB}/Yale-LILY/QMSum/main/data/ALL/jsonl/{split}.jsonl", f"ALL/jsonl/{split}.jsonl")
                for split in ("train", "val", "test")
            ),
        ),
        "scrolls": scrolls_layout("qmsum"),
    },
    templates={
        name: template.model_copy(update={"cut_at_period": False})  # summaries are sentences
        for name, template in (("base", BASE), ("instruct", INSTRUCT_LONG))
    },
    gold=False,  # answers are summaries
    demo=Demo(COLLEAGUE, ("train", "test", "dev"), write_demo),
)
