"""Qasper: questions about papers on natural language processing."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retrotune.data.corpora.json_places import JsonPlaces
from retrotune.data.corpora.records import BadRecords, need, need_texts, optional, read_json_document
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
from retrotune.data.datasets.scrolls import scrolls_layout
from retrotune.data.demo.facts import METHOD
from retrotune.data.demo.layouts import Demo, Scenes, identifier
from retrotune.data.demo.names import Split
from retrotune.data.demo.scenes import Question, Scene, fill
from retrotune.errors import DataError
from retrotune.runtime.files import write_json


def answer_and_type(answer: Any) -> tuple[str, str]:
    """One annotator's answer as text, and its type, as the official evaluator and SCROLLS have them.

    Extractive spans joined by ", ", the free form (abstractive), Yes or No (boolean), or Unanswerable (none); "" if the
    annotation is empty.
    """
    if need(answer, "unanswerable", bool):
        return "Unanswerable", "none"
    spans = need_texts(answer, "extractive_spans")
    if spans:
        return ", ".join(spans), "extractive"
    free_form = need(answer, "free_form_answer", str)
    if free_form.strip():
        return free_form, "abstractive"
    yes = optional(answer, "yes_no", bool)
    return "" if yes is None else "Yes" if yes else "No", "boolean"


def evidence_paragraphs(qa: Any) -> tuple[str, ...]:
    """Paragraphs that any annotator found the answer in, each once; without tables and figures (`FLOAT SELECTED`)."""
    answers = [entry["answer"] for entry in need(qa, "answers", list)]
    texts = [text for answer in answers if "evidence" in answer for text in need_texts(answer, "evidence")]
    return tuple(dict.fromkeys(text for text in texts if text.strip() and not text.startswith("FLOAT SELECTED")))


def paper_text(paper: Any) -> str:
    """Abstract and sections, each with its heading; paragraphs are separated by blank lines."""
    parts = [need(paper, "abstract", str)]
    for section in need(paper, "full_text", list):
        parts.append(optional(section, "section_name", str) or "")
        parts.extend(need_texts(section, "paragraphs"))
    return "\n\n".join(part.strip() for part in parts if part.strip())


def _read_qasper(file: Path, split: str, bad: BadRecords) -> Iterator[Record]:
    """`{paper_id: {title, abstract, full_text, qas}}`; the answers of all annotators are references."""
    papers, places = read_json_document(file), JsonPlaces(file)
    if not isinstance(papers, dict):
        raise DataError(f"{file}:1: not an object of papers but {type(papers).__name__}; is this a Qasper file?")
    for paper_id, paper in papers.items():
        with bad.at(places.of(paper_id, name=f"paper {paper_id}")):
            document = make_document(paper_id, need(paper, "title", str), paper_text(paper))
            placed = []
            for number, qa in enumerate(need(paper, "qas", list)):
                place = places.of(paper_id, "qas", number, name=f"paper {paper_id} question {number}")
                with bad.at(place):
                    pairs = [answer_and_type(need(entry, "answer", dict)) for entry in need(qa, "answers", list)]
                    answers, types = [text for text, _ in pairs], tuple(type_ for _, type_ in pairs)
                    question_id, question = need(qa, "question_id", str), need(qa, "question", str)
                    evidence = evidence_paragraphs(qa)
                    example = make_example(question_id, question, answers, paper_id, evidence=evidence, types=types)
                    placed.append((place, example))
            yield Record(tuple(placed), document)


BOOLEAN_SHARE = UNANSWERABLE_SHARE = 0.1
FREE_FORM_SHARE = 0.2
_PAPER_INTRODUCTION = "Some languages are hard to read for machines. We therefore ask which method reads best."
_PAPER_CONCLUSION = "No method is best in everything. We hope that others will go on from here."


def write_demo(folder: Path, scenes: Scenes, rng: random.Random) -> None:
    """Qasper: `qasper-{train,dev,test}-v0.3.json`. Most answers are spans, few are yes or no, or unanswerable.

    Some questions have a second annotator, who gives the span in free form.
    """
    splits: tuple[Split, ...] = ("train", "dev", "test")
    for split in splits:
        papers = {}
        for number, scene in enumerate(scenes[split]):
            paper_id = f"demo.{split}.{number:05d}"
            sections = {
                "Introduction": [_PAPER_INTRODUCTION],
                "Methods": [page.text for page in scene.pages],
                "Conclusion": [_PAPER_CONCLUSION],
            }
            papers[paper_id] = {
                "title": scene.title,
                "abstract": scene.intro,
                "full_text": [{"section_name": name, "paragraphs": texts} for name, texts in sections.items()],
                "qas": [
                    _qasper_question(scene, question, identifier("qasper", paper_id, index), rng)
                    for index, question in enumerate(scene.questions)
                ],
                "figures_and_tables": [],
            }
        write_json(folder / f"qasper-{split}-v0.3.json", papers)


def _qasper_question(scene: Scene, question: Question, question_id: str, rng: random.Random) -> dict[str, Any]:
    fact, page, text = question.fact, scene.pages[question.page], question.text
    kind = rng.random()
    answers: list[dict[str, Any]]
    if kind < BOOLEAN_SHARE:
        truth = rng.random() < 0.5
        claim = fill(fact.relation.statements[0], fact.subject, fact.value if truth else question.distractors[0])
        text = f"Is it true that {claim[:1].lower() if claim.startswith('The ') else claim[:1]}{claim[1:-1]}?"
        answers = [{"yes_no": truth}]
    elif kind < BOOLEAN_SHARE + UNANSWERABLE_SHARE:
        told = {known.relation for known in page.facts}
        untold = rng.choice([relation for relation in scene.family.relations if relation not in told])
        text = fill(rng.choice(untold.held_out), page.subject, "")
        answers = [{"unanswerable": True}]
    else:
        answers = [{"extractive_spans": [fact.answer]}]
        if rng.random() < FREE_FORM_SHARE:
            answers.append({"free_form_answer": f"It is {fact.answer}"})
    evidence = {"evidence": [page.text], "highlighted_evidence": [fact.statement]}
    nothing = {"unanswerable": False, "extractive_spans": [], "yes_no": None, "free_form_answer": ""}
    return {
        "question": text,
        "question_id": question_id,
        "nlp_background": "",
        "topic_background": "",
        "paper_read": "",
        "search_query": "",
        "question_writer": identifier("qasper", "writer"),
        "answers": [
            {
                "answer": nothing
                | ({"evidence": [], "highlighted_evidence": []} if "unanswerable" in answer else evidence)
                | answer,
                "annotation_id": identifier("qasper", question_id, annotator),
                "worker_id": identifier("qasper", "worker", annotator),
            }
            for annotator, answer in enumerate(answers)
        ],
    }


_BUCKET = "https://qasper-dataset.s3.us-west-2.amazonaws.com"

SPEC = DatasetSpec(
    name="qasper",
    version=1,
    citation="Dasigi et al. 2021, A Dataset of Information-Seeking Questions Anchored in Papers (arXiv 2105.03011)",
    open_domain=False,
    metrics=("f1", "f1_first", "exact_match", "contains", "f1_unicode"),
    max_new_tokens=100,
    layouts={
        "official": Layout(
            ("qasper-{split}-v*.json", "*/qasper-{split}-v*.json", "qasper-{split}.json"),
            train="train",
            test=("test", "dev"),
            read=_read_qasper,
            download=(
                RawFile(
                    f"{_BUCKET}/qasper-train-dev-v0.3.tgz",
                    "qasper-train-dev-v0.3.tgz",
                    sha256="a28fdf966db827bcee3d873107d6b6669864fb7ca8fbf73a192f5e39191bdb5a",
                    members=("qasper-*.json",),
                ),
                RawFile(
                    f"{_BUCKET}/qasper-test-and-evaluator-v0.3.tgz",
                    "qasper-test-and-evaluator-v0.3.tgz",
                    3865061,
                    "72a52a41193e2838b8074f80ac074b94f956b84886c36a61c58a7df4171bdd72",
                    members=("qasper-*.json",),
                ),
            ),
        ),
        "scrolls": scrolls_layout("qasper"),
    },
    templates={"base": BASE, "instruct": INSTRUCT_SHORT},
    demo=Demo(METHOD, ("train", "test", "dev"), write_demo),
)
