"""Qasper: questions about papers on natural language processing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retrotune.corpus.json_places import JsonPlaces
from retrotune.corpus.records import BadRecords, need, need_texts, optional, read_json_document
from retrotune.datasets.base import BASE, INSTRUCT_SHORT, DatasetSpec, Layout, Record, make_document, make_example
from retrotune.datasets.scrolls import scrolls_layout
from retrotune.errors import DataError


def answer_text(answer: Any) -> str:
    """One annotator's answer as text, as the official evaluator and SCROLLS have it.

    Extractive spans joined by ", ", the free form, Yes or No, or Unanswerable; "" if the annotation is empty.
    """
    if need(answer, "unanswerable", bool):
        return "Unanswerable"
    spans = need_texts(answer, "extractive_spans")
    if spans:
        return ", ".join(spans)
    free_form = need(answer, "free_form_answer", str)
    if free_form.strip():
        return free_form
    yes = optional(answer, "yes_no", bool)
    return "" if yes is None else "Yes" if yes else "No"


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
                    answers = [answer_text(need(entry, "answer", dict)) for entry in need(qa, "answers", list)]
                    question_id, question = need(qa, "question_id", str), need(qa, "question", str)
                    evidence = evidence_paragraphs(qa)
                    placed.append((place, make_example(question_id, question, answers, paper_id, evidence=evidence)))
            yield Record(tuple(placed), document)


SPEC = DatasetSpec(
    name="qasper",
    version=1,
    citation="Dasigi et al. 2021, A Dataset of Information-Seeking Questions Anchored in Papers (arXiv 2105.03011)",
    open_domain=False,
    metric="f1",
    max_new_tokens=100,
    layouts={
        "official": Layout(
            ("qasper-{split}-v*.json", "*/qasper-{split}-v*.json", "qasper-{split}.json"),
            train="train",
            test=("test", "dev"),
            read=_read_qasper,
        ),
        "scrolls": scrolls_layout("qasper"),
    },
    templates={"base": BASE, "instruct": INSTRUCT_SHORT},
)
