"""Natural Questions, open form: NQ-open files, or DPR's retriever JSON as the source of questions."""

import random
from collections.abc import Iterator
from pathlib import Path

from retrotune.data.corpora.dpr import read_retriever_json
from retrotune.data.corpora.records import BadRecords, need, read_json_lines
from retrotune.data.datasets.base import (
    BASE,
    GITHUB,
    INSTRUCT_SHORT,
    DatasetSpec,
    Layout,
    RawFile,
    Record,
    make_example,
)
from retrotune.data.demo.facts import PERSON
from retrotune.data.demo.layouts import Demo, Scenes
from retrotune.data.demo.names import Split
from retrotune.runtime.files import write_jsonl


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
    names = [f"biencoder-{name}-{split}.json.gz" for split in ("train", "dev")]
    return Layout(
        (file, f"{file}.gz", f"*/{file}", f"*/{file}.gz"),
        train="train",
        test=("dev",),
        read=read_dpr,
        download=tuple(RawFile(f"https://dl.fbaipublicfiles.com/dpr/data/retriever/{name}", name) for name in names),
    )


_REPOSITORY = f"{GITHUB}/google-research-datasets/natural-questions/master/nq_open"


def write_demo(folder: Path, scenes: Scenes, rng: random.Random) -> None:
    """NQ-open: `NQ-open.{train,dev}.jsonl`. As in the literature, dev is the test set."""
    names: dict[Split, str] = {"train": "train", "test": "dev"}
    for split, name in names.items():
        questions = [question for scene in scenes[split] for question in scene.questions]
        rng.shuffle(questions)
        records = ({"question": question.text, "answer": [question.fact.answer]} for question in questions)
        write_jsonl(folder / f"NQ-open.{name}.jsonl", records)


SPEC = DatasetSpec(
    name="nq",
    version=1,
    citation="Kwiatkowski et al. 2019, Natural Questions; Lee et al. 2019 (arXiv 1906.00300) for the open form",
    open_domain=True,
    metrics=("exact_match", "f1", "contains", "exact_match_unicode"),
    max_new_tokens=32,
    layouts={
        # Papers report NQ-open.dev as the test set.
        "official": Layout(
            ("NQ-open.{split}.jsonl", "nq_open/NQ-open.{split}.jsonl"),
            train="train",
            test=("dev",),
            read=_read_nq_open,
            download=(
                RawFile(
                    f"{_REPOSITORY}/NQ-open.train.jsonl",
                    "NQ-open.train.jsonl",
                    8522298,
                    "0c93aaf13b12f855628489665e4ef85ffb8573ad444646f11f4fabdc57a0aabf",
                ),
                RawFile(
                    f"{_REPOSITORY}/NQ-open.dev.jsonl",
                    "NQ-open.dev.jsonl",
                    391316,
                    "f15567f38099f3615f5b8a685c0aef449c11ad90d3da3735e8d1b98115b40616",
                ),
            ),
        ),
        "dpr": dpr_layout("nq"),
    },
    templates={"base": BASE, "instruct": INSTRUCT_SHORT},
    demo=Demo(PERSON, ("train", "test"), write_demo),
)
