"""The official raw layout of each dataset: one writer per dataset, all fields that the released files have."""

import csv
import gzip
import hashlib
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from retrotune.demo.names import Split
from retrotune.demo.scenes import Question, Scene, fill, listing
from retrotune.files import atomic_write, write_json, write_jsonl, write_text

Scenes = Mapping[Split, Sequence[Scene]]
Writer = Callable[[Path, Scenes, random.Random], None]
"""Writes the documents and questions of all splits below a dataset's folder; the generator shuffles what it must."""


def identifier(*parts: object) -> str:
    """A document or question id as the releases have them, 40 hex digits."""
    return hashlib.sha1("/".join(map(str, parts)).encode("utf-8"), usedforsecurity=False).hexdigest()


def _tokenized(text: str) -> str:
    """Words and punctuation separated by single spaces."""
    return " ".join(re.findall(r"\w+|[^\w\s]", text))


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def write_wikipedia(path: Path, articles: Iterable[tuple[str, str]]) -> None:
    """DPR's `psgs_w100.tsv.gz` from (title, text): columns id, text (always quoted), title; ids count from 1."""
    lines = ["id\ttext\ttitle\n"]
    for number, (title, text) in enumerate(articles, start=1):
        quoted = text.replace('"', '""')
        lines.append(f'{number}\t"{quoted}"\t{title}\n')
    with atomic_write(path) as temporary:
        # no time in the archive: the same world gives the same bytes
        temporary.write_bytes(gzip.compress("".join(lines).encode("utf-8"), mtime=0))


def write_nq(folder: Path, scenes: Scenes, rng: random.Random) -> None:
    """NQ-open: `NQ-open.{train,dev}.jsonl`. As in the literature, dev is the test set."""
    names: dict[Split, str] = {"train": "train", "test": "dev"}
    for split, name in names.items():
        questions = [question for scene in scenes[split] for question in scene.questions]
        rng.shuffle(questions)
        records = ({"question": question.text, "answer": [question.fact.answer]} for question in questions)
        write_jsonl(folder / f"NQ-open.{name}.jsonl", records)


def write_triviaqa(folder: Path, scenes: Scenes, rng: random.Random) -> None:
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


def write_narrativeqa(folder: Path, scenes: Scenes, rng: random.Random) -> None:
    """NarrativeQA: `documents.csv`, `qaps.csv`, the summaries, and one story per file `tmp/<document id>.content`.

    Both answers are the same, as no second person has answered.
    """
    documents: list[list[object]] = []
    pairs: list[list[object]] = []
    summaries: list[list[object]] = []
    names: dict[Split, str] = {"train": "train", "dev": "valid", "test": "test"}
    for split, name in names.items():
        for number, scene in enumerate(scenes[split]):
            document_id = identifier("narrativeqa", split, number, scene.title)
            story = "\n\n".join([scene.intro, *(page.text for page in scene.pages)]) + "\n"
            words = story.split()
            start, end = " ".join(words[:3]), " ".join(words[-3:])
            url = f"https://example.org/tales/{document_id}"
            size = len(story.encode("utf-8"))
            documents.append([document_id, name, "made-up", url, size, "", scene.title, len(words), start, end])
            subjects = listing([page.subject for page in scene.pages])
            summary = f"{scene.title} tells of {subjects}. " + " ".join(page.facts[0].statement for page in scene.pages)
            summaries.append([document_id, name, summary, _tokenized(summary)])
            for question in scene.questions:
                answer = question.fact.answer
                tokenized = _tokenized(answer)
                row = [document_id, name, question.text, answer, answer, _tokenized(question.text)]
                pairs.append([*row, tokenized, tokenized])
            write_text(folder / "tmp" / f"{document_id}.content", story)
    columns = "document_id set question answer1 answer2 question_tokenized answer1_tokenized answer2_tokenized"
    _write_csv(folder / "qaps.csv", columns.split(), pairs)
    columns = "document_id set summary summary_tokenized"
    _write_csv(folder / "third_party/wikipedia/summaries.csv", columns.split(), summaries)
    columns = (
        "document_id set kind story_url story_file_size wiki_url wiki_title story_word_count story_start story_end"
    )
    _write_csv(folder / "documents.csv", columns.split(), documents)


BOOLEAN_SHARE = UNANSWERABLE_SHARE = 0.1
FREE_FORM_SHARE = 0.2
_PAPER_INTRODUCTION = "Some languages are hard to read for machines. We therefore ask which method reads best."
_PAPER_CONCLUSION = "No method is best in everything. We hope that others will go on from here."


def write_qasper(folder: Path, scenes: Scenes, rng: random.Random) -> None:
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


def write_quality(folder: Path, scenes: Scenes, rng: random.Random) -> None:
    """QuALITY: `QuALITY.v1.0.1.htmlstripped.{train,dev}`, four options; dev is the test set."""
    names: dict[Split, str] = {"train": "train", "test": "dev"}
    for split, name in names.items():
        articles = []
        for number, scene in enumerate(scenes[split]):
            unique = f"demo-{name}-{number}_DEMO"
            questions = []
            for index, question in enumerate(scene.questions, start=1):
                options = [question.fact.answer, *question.distractors]
                rng.shuffle(options)
                gold = options.index(question.fact.answer) + 1
                questions.append(
                    {
                        "question": question.text,
                        "question_unique_id": f"{unique}_{index}",
                        "options": options,
                        "writer_label": gold,
                        "gold_label": gold,
                        "validation": [],
                        "speed_validation": [],
                        "difficult": 0,
                    }
                )
            articles.append(
                {
                    "article_id": f"demo-{name}-{number}",
                    "set_unique_id": unique,
                    "batch_num": "",
                    "writer_id": "",
                    "source": "retrotune demo world",
                    "title": scene.title,
                    "year": None,
                    "author": "",
                    "topic": "",
                    "article": "\n\n".join([scene.intro, *(page.text for page in scene.pages)]),
                    "questions": questions,
                    "url": "",
                    "license": "Apache-2.0",
                }
            )
        write_jsonl(folder / f"QuALITY.v1.0.1.htmlstripped.{name}", articles)


def write_qmsum(folder: Path, scenes: Scenes, rng: random.Random) -> None:
    """QMSum: `ALL/jsonl/{train,val,test}.jsonl`. The chair names whose plans are heard, then one turn per page.

    Summaries are one sentence. There is one general query per meeting, the others are specific.
    """
    names: dict[Split, str] = {"train": "train", "dev": "val", "test": "test"}
    for split, name in names.items():
        meetings = []
        for scene in scenes[split]:
            subjects = listing([page.subject for page in scene.pages])
            turns = [{"speaker": "Chair", "content": scene.intro}]
            turns += [{"speaker": page.speaker, "content": page.text} for page in scene.pages]
            meetings.append(
                {
                    "topic_list": [
                        {"topic": f"The plans of {page.subject}", "relevant_text_span": [[str(turn), str(turn)]]}
                        for turn, page in enumerate(scene.pages, start=1)
                    ],
                    "general_query_list": [
                        {
                            "query": "Summarize the whole meeting",
                            "answer": f"The meeting heard about the plans of {subjects}.",
                        }
                    ],
                    "specific_query_list": [
                        {
                            "query": question.text,
                            "answer": f"{question.fact.answer}.",
                            "relevant_text_span": [[str(question.page + 1), str(question.page + 1)]],
                        }
                        for question in scene.questions
                    ],
                    "meeting_transcripts": turns,
                }
            )
        write_jsonl(folder / "ALL" / "jsonl" / f"{name}.jsonl", meetings)


WRITERS: dict[str, Writer] = {
    "nq": write_nq,
    "triviaqa": write_triviaqa,
    "narrativeqa": write_narrativeqa,
    "qasper": write_qasper,
    "quality": write_quality,
    "qmsum": write_qmsum,
}
