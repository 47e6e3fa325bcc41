"""QMSum: query-based summarization of meetings."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retrotune.corpus.records import BadRecordError, BadRecords, need, optional, read_json_lines, squeeze
from retrotune.datasets.base import (
    BASE,
    INSTRUCT_LONG,
    DatasetSpec,
    Layout,
    Record,
    any_answer,
    make_document,
    make_example,
)
from retrotune.datasets.scrolls import scrolls_layout

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


SPEC = DatasetSpec(
    name="qmsum",
    version=1,
    citation="Zhong et al. 2021, QMSum (arXiv 2104.05938)",
    open_domain=False,
    metric="rouge_geometric",
    max_new_tokens=256,
    layouts={
        "official": Layout(
            ("ALL/jsonl/{split}.jsonl", "data/ALL/jsonl/{split}.jsonl", "jsonl/{split}.jsonl", "{split}.jsonl"),
            train="train",
            test=("test", "val"),
            read=_read_qmsum,
            usable=_has_answers,
        ),
        "scrolls": scrolls_layout("qmsum"),
    },
    templates={
        name: template.model_copy(update={"cut_at_period": False})  # summaries are sentences
        for name, template in (("base", BASE), ("instruct", INSTRUCT_LONG))
    },
)
