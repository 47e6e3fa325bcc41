"""Natural Questions, open form: NQ-open files, or DPR's retriever JSON as the source of questions."""

from collections.abc import Iterator
from pathlib import Path

from retrotune.corpus.dpr import read_retriever_json
from retrotune.corpus.records import BadRecords, need, read_json_lines
from retrotune.datasets.base import BASE, INSTRUCT_SHORT, DatasetSpec, Layout, Record, make_example


def _read_nq_open(file: Path, split: str, bad: BadRecords) -> Iterator[Record]:
    """NQ-open lines `{"question", "answer": [...]}`; they carry no ids, so the line's number is the id."""
    for place, raw in read_json_lines(file, bad):
        with bad.at(place):
            question_id = f"{split}:{place.rsplit(':', 1)[1]}"
            example = make_example(question_id, need(raw, "question", str), need(raw, "answer", list))
            yield Record(((place, example),))


def read_dpr(file: Path, split: str, bad: BadRecords) -> Iterator[Record]:
    """DPR retriever records `{"question", "answers": [...], "positive_ctxs", ...}`; the record's number is the id."""
    for number, (place, raw) in enumerate(read_retriever_json(file)):
        with bad.at(place):
            example = make_example(f"{split}:{number}", need(raw, "question", str), need(raw, "answers", list))
            yield Record(((place, example),))


def dpr_layout(name: str) -> Layout:
    """DPR's `biencoder-{name}-{train,dev}.json`, plain or compressed, as downloaded or in DPR's own folders."""
    file = f"biencoder-{name}-{{split}}*.json"
    return Layout((file, f"{file}.gz", f"*/{file}", f"*/{file}.gz"), train="train", test=("dev",), read=read_dpr)


SPEC = DatasetSpec(
    name="nq",
    version=1,
    citation="Kwiatkowski et al. 2019, Natural Questions; Lee et al. 2019 (arXiv 1906.00300) for the open form",
    open_domain=True,
    metric="exact_match",
    max_new_tokens=32,
    layouts={
        # Papers report NQ-open.dev as the test set.
        "official": Layout(
            ("NQ-open.{split}.jsonl", "nq_open/NQ-open.{split}.jsonl"),
            train="train",
            test=("dev",),
            read=_read_nq_open,
        ),
        "dpr": dpr_layout("nq"),
    },
    templates={"base": BASE, "instruct": INSTRUCT_SHORT},
)
