"""TriviaQA: the unfiltered release (open domain), the reading-comprehension release, or DPR's retriever JSON."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retrotune.data.corpora.json_places import JsonPlaces
from retrotune.data.corpora.records import BadRecords, need, read_json_document
from retrotune.data.datasets.base import BASE, INSTRUCT_SHORT, DatasetSpec, Layout, RawFile, Record, make_example
from retrotune.data.datasets.nq import dpr_layout
from retrotune.data.demo.facts import TOWN
from retrotune.data.demo.layouts import Demo, Scenes
from retrotune.data.demo.names import Split
from retrotune.data.demo.scenes import Question
from retrotune.errors import DataError
from retrotune.runtime.files import write_json


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


def write_demo(folder: Path, scenes: Scenes, rng: random.Random) -> None:
    """TriviaQA unfiltered: `triviaqa-unfiltered/unfiltered-web-{train,dev}.json`; dev is the test set."""
    names: dict[Split, str] = {"train": "train", "test": "dev"}
    for split, name in names.items():
        questions = [question for scene in scenes[split] for question in scene.questions]
        rng.shuffle(questions)
        content = {
            "Data": [_trivia(question, f"demo_{name}_{number}") for number, question in enumerate(questions)],
            "Domain": "unfiltered-web",
            "Split": name,
            "VerifiedEval": False,
            "Version": 1.0,
        }
        write_json(folder / "triviaqa-unfiltered" / f"unfiltered-web-{name}.json", content)


def _trivia(question: Question, question_id: str) -> dict[str, Any]:
    answer = question.fact.answer
    aliases = list(dict.fromkeys([answer, answer.removeprefix("the ")]))
    normalized = list(dict.fromkeys(alias.lower().removeprefix("the ") for alias in aliases))
    return {
        "Answer": {
            "Aliases": aliases,
            "MatchedWikiEntityName": "",
            "NormalizedAliases": normalized,
            "NormalizedMatchedWikiEntityName": "",
            "NormalizedValue": normalized[0],
            "Type": "FreeForm",
            "Value": answer,
        },
        "EntityPages": [],
        "Question": question.text,
        "QuestionId": question_id,
        "QuestionSource": "",
        "SearchResults": [],
    }


_FILES = ("unfiltered-web-{split}.json", "qa/web-{split}.json", "web-{split}.json")
_WIKIPEDIA = ("qa/wikipedia-{split}.json", "wikipedia-{split}.json")

SPEC = DatasetSpec(
    name="triviaqa",
    version=1,
    citation="Joshi et al. 2017, TriviaQA (arXiv 1705.03551)",
    open_domain=True,
    metrics=("triviaqa_exact_match", "triviaqa_f1", "contains", "exact_match"),
    max_new_tokens=32,
    layouts={
        # Papers on open-domain answering report the dev split, as the test answers were never released.
        "official": Layout(
            (*_FILES, *(f"*/{file}" for file in _FILES), *_WIKIPEDIA, *(f"*/{file}" for file in _WIKIPEDIA)),
            train="train",
            test=("dev",),
            read=_read_triviaqa,
            download=(
                RawFile(
                    "https://nlp.cs.washington.edu/triviaqa/data/triviaqa-unfiltered.tar.gz",
                    "triviaqa-unfiltered.tar.gz",
                    632549060,
                    "7f0c94207fd0a1eb7bba3d52cdfe0735c98de850b9e5aa4e75f2776ef9a531d0",
                    members=("unfiltered-web-train.json", "unfiltered-web-dev.json"),
                ),
            ),
        ),
        "dpr": dpr_layout("trivia"),
    },
    templates={"base": BASE, "instruct": INSTRUCT_SHORT},
    demo=Demo(TOWN, ("train", "test"), write_demo),
)
