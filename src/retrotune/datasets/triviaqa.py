"""TriviaQA: the unfiltered release (open domain), the reading-comprehension release, or DPR's retriever JSON."""

from collections.abc import Iterator
from pathlib import Path

from retrotune.corpus.json_places import JsonPlaces
from retrotune.corpus.records import BadRecords, need, read_json_document
from retrotune.datasets.base import BASE, INSTRUCT_SHORT, DatasetSpec, Layout, Record, make_example
from retrotune.datasets.nq import dpr_layout
from retrotune.errors import DataError


def _read_triviaqa(file: Path, split: str, bad: BadRecords) -> Iterator[Record]:
    """TriviaQA's `{"Data": [{"QuestionId", "Question", "Answer": {"Value", "Aliases", ...}}]}`.

    All aliases are references, the value first: it is what a model learns to say.
    """
    content, places = read_json_document(file), JsonPlaces(file)
    if not isinstance(content, dict) or not isinstance(content.get("Data"), list):
        raise DataError(f"{file}:1: no list under 'Data'; is this a TriviaQA file?")
    seen: set[str] = set()
    for number, raw in enumerate(content["Data"]):
        place = places.of("Data", number, name=f"record {number}")
        with bad.at(place):
            question_id = need(raw, "QuestionId", str)
            if question_id in seen:  # the verified and evidence-wise parts of a release repeat questions
                bad.notes["questions that the file repeats"] += 1
                continue
            answer = need(raw, "Answer", dict)
            answers = [need(answer, "Value", str), *need(answer, "Aliases", list)]
            example = make_example(question_id, need(raw, "Question", str), answers)
            seen.add(question_id)
            yield Record(((place, example),))


_FILES = ("unfiltered-web-{split}.json", "qa/web-{split}.json", "web-{split}.json")
_WIKIPEDIA = ("qa/wikipedia-{split}.json", "wikipedia-{split}.json")

SPEC = DatasetSpec(
    name="triviaqa",
    version=1,
    citation="Joshi et al. 2017, TriviaQA (arXiv 1705.03551)",
    open_domain=True,
    metric="exact_match",
    max_new_tokens=32,
    layouts={
        # Papers on open-domain answering report the dev split, as the test answers were never released.
        "official": Layout(
            (*_FILES, *(f"*/{file}" for file in _FILES), *_WIKIPEDIA, *(f"*/{file}" for file in _WIKIPEDIA)),
            train="train",
            test=("dev",),
            read=_read_triviaqa,
        ),
        "dpr": dpr_layout("trivia"),
    },
    templates={"base": BASE, "instruct": INSTRUCT_SHORT},
)
