"""Qasper: questions about papers on natural language processing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retrotune.corpus.records import BadRecordError, BadRecords, need, read_json_document
from retrotune.datasets.base import BASE, INSTRUCT_SHORT, DatasetSpec, Layout, Record, make_document, make_example
from retrotune.datasets.scrolls import scrolls_layout
from retrotune.errors import DataError


def answer_text(answer: Any) -> str:
    """One annotator's answer as text, as the official evaluator and SCROLLS have it.

    Extractive spans joined by ", ", the free form, Yes or No, or Unanswerable; "" if the annotation is empty.
    """
    if need(answer, "unanswerable", bool):
        return "Unanswerable"
    spans = need(answer, "extractive_spans", list)
    if spans:
        return ", ".join(str(span) for span in spans)
    if need(answer, "free_form_answer", str).strip():
        return str(answer["free_form_answer"])
    return {True: "Yes", False: "No"}.get(answer.get("yes_no"), "")


def paper_text(paper: Any) -> str:
    """Abstract and sections, each with its heading; paragraphs are separated by blank lines."""
    parts = [need(paper, "abstract", str)]
    for section in need(paper, "full_text", list):
        parts.append(section.get("section_name") or "")
        parts.extend(paragraph for paragraph in need(section, "paragraphs", list) if isinstance(paragraph, str))
    return "\n\n".join(part.strip() for part in parts if part.strip())


def _read_qasper(file: Path, split: str, bad: BadRecords) -> Iterator[Record]:
    """`{paper_id: {title, abstract, full_text, qas}}`; the answers of all annotators are references."""
    papers = read_json_document(file)
    if not isinstance(papers, dict):
        raise DataError(f"{file}: not an object of papers but {type(papers).__name__}")
    for paper_id, paper in papers.items():
        with bad.at(f"{file} paper {paper_id}"):
            document = make_document(paper_id, need(paper, "title", str), paper_text(paper))
            examples = []
            for number, qa in enumerate(need(paper, "qas", list)):
                with bad.at(f"{file} paper {paper_id} question {number}"):
                    answers = [answer_text(need(entry, "answer", dict)) for entry in need(qa, "answers", list)]
                    question_id = need(qa, "question_id", str)
                    if not question_id:
                        raise BadRecordError("empty question_id")
                    examples.append(make_example(question_id, need(qa, "question", str), answers, paper_id))
            yield Record(tuple(examples), document)


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
