"""SQuAD 1.1: questions about paragraphs of Wikipedia articles, each answered by a span."""

from collections.abc import Iterator
from pathlib import Path

from retrotune.data.corpora.json_places import JsonPlaces
from retrotune.data.corpora.records import BadRecordError, BadRecords, need, read_json_document
from retrotune.data.datasets.base import (
    BASE,
    INSTRUCT_SHORT,
    DatasetSpec,
    Layout,
    RawFile,
    Record,
    make_document,
    make_example,
)
from retrotune.errors import DataError

_SOURCE = "https://rajpurkar.github.io/SQuAD-explorer/dataset"


def _read_squad(file: Path, split: str, bad: BadRecords) -> Iterator[Record]:
    """`{"version", "data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question", "answers"}]}]}]}`.

    A question's document is the whole article, its evidence the paragraph that was asked about. Questions of version
    2.0 may have no answer, which this version has not: such a file is refused.
    """
    content, places = read_json_document(file), JsonPlaces(file)
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        raise DataError(f"{file}:1: no list under 'data'; is this a SQuAD file?")
    if not str(content.get("version", "1.1")).removeprefix("v").startswith("1."):
        raise DataError(f"{file}:1: version {content['version']!r} of SQuAD; put version 1.1 there")
    for number, article in enumerate(content["data"]):
        with bad.at(places.of("data", number, name=f"article {number}")):
            title, paragraphs = need(article, "title", str), need(article, "paragraphs", list)
            contexts = [need(paragraph, "context", str).strip() for paragraph in paragraphs]
            document = make_document(title, title.replace("_", " "), "\n\n".join(contexts))
            placed = []
            for row, (paragraph, context) in enumerate(zip(paragraphs, contexts, strict=True)):
                for index, qa in enumerate(need(paragraph, "qas", list)):
                    name = f"article {number} paragraph {row} question {index}"
                    place = places.of("data", number, "paragraphs", row, "qas", index, name=name)
                    with bad.at(place):
                        answers = [need(answer, "text", str) for answer in need(qa, "answers", list)]
                        if any(answer.strip() not in context for answer in answers):
                            raise BadRecordError(f"an answer is not in its paragraph (question {qa.get('id')!r})")
                        question_id, question = need(qa, "id", str), need(qa, "question", str)
                        example = make_example(question_id, question, answers, title, evidence=(context,))
                        placed.append((place, example))
            yield Record(tuple(placed), document)


SPEC = DatasetSpec(
    name="squad",
    version=1,
    citation="Rajpurkar et al. 2016, SQuAD: 100,000+ Questions for Machine Comprehension of Text (arXiv 1606.05250)",
    open_domain=False,
    metrics=("f1", "exact_match", "contains"),
    max_new_tokens=32,
    layouts={
        # The test split is not public: papers report dev.
        "official": Layout(
            ("{split}-v1.1.json", "*/{split}-v1.1.json"),
            train="train",
            test=("dev",),
            read=_read_squad,
            download=(
                RawFile(
                    f"{_SOURCE}/train-v1.1.json",
                    "train-v1.1.json",
                    30288272,
                    "3527663986b8295af4f7fcdff1ba1ff3f72d07d61a20f487cb238a6ef92fd955",
                ),
                RawFile(
                    f"{_SOURCE}/dev-v1.1.json",
                    "dev-v1.1.json",
                    4854279,
                    "95aa6a52d5d6a735563366753ca50492a658031da74f301ac5238b03966972c9",
                ),
            ),
        ),
    },
    templates={"base": BASE, "instruct": INSTRUCT_SHORT},
)
