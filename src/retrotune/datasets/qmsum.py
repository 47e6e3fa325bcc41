"""QMSum: query-based summarization of meetings."""

from collections.abc import Iterator
from pathlib import Path

from retrotune.corpus.records import BadRecords, need, read_json_lines, squeeze
from retrotune.datasets.base import BASE, INSTRUCT_LONG, DatasetSpec, Layout, Record, make_document, make_example
from retrotune.datasets.scrolls import scrolls_layout

_QUERIES = ("general_query_list", "specific_query_list")


def _has_answers(file: Path, split: str) -> bool:
    for _, meeting in read_json_lines(file, BadRecords(skip=True)):
        for queries in _QUERIES:
            for query in meeting.get(queries, ()):
                return bool(query.get("answer"))
    return True  # an empty or broken file is reported when it is read


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
            examples = []
            for kind in _QUERIES:
                for number, query in enumerate(need(raw, kind, list)):
                    with bad.at(f"{place} {kind} {number}"):
                        question_id = f"{doc_id}:{kind[0]}{number}"
                        answers = [query["answer"]] if query.get("answer") is not None else []
                        examples.append(make_example(question_id, need(query, "query", str), answers, doc_id))
            yield Record(tuple(examples), document)


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
    templates={"base": BASE, "instruct": INSTRUCT_LONG},
    cut_at_period=False,
)
