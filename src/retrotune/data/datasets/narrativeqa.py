"""NarrativeQA: questions about whole books and film scripts."""

import html
import random
import re
from collections.abc import Iterator
from pathlib import Path

from retrotune.data.corpora.encodings import decode
from retrotune.data.corpora.records import BadRecordError, BadRecords, Document, open_bytes, read_table
from retrotune.data.datasets.base import (
    BASE,
    GITHUB,
    INSTRUCT_SHORT,
    DatasetSpec,
    Example,
    Layout,
    RawFile,
    Record,
    make_document,
    make_example,
)
from retrotune.data.datasets.scrolls import scrolls_layout
from retrotune.data.demo.facts import CHARACTER
from retrotune.data.demo.layouts import Demo, Scenes, identifier, tokenized, write_csv
from retrotune.data.demo.names import Split
from retrotune.data.demo.scenes import listing
from retrotune.errors import DataError
from retrotune.runtime.files import write_text

# Film scripts come as web pages: what is never text, block elements (a new line), and all other tags.
_INVISIBLE = re.compile(r"(?is)<(script|style|head)\b.*?</\1\s*>|<!--.*?-->")
_BLOCK = re.compile(r"(?i)</?(?:p|br|div|pre|h[1-6]|tr|li|table|hr|blockquote)\b[^>]*>")
_TAG = re.compile(r"</?[a-zA-Z!][^<>]*>")
_IS_HTML = re.compile(r"(?i)<(?:!doctype\s+html|html|body|pre)\b")
_FILE_NAME = re.compile(r"[\w.-]{1,200}", re.ASCII)
_SETS = ("train", "valid", "test")
_REPOSITORY = f"{GITHUB}/google-deepmind/narrativeqa/master"
_COMPANIONS = ("documents.csv", "tmp")


def strip_html(text: str) -> str:
    """The visible text if `text` is a web page, else `text` unchanged (a `<` in prose is no tag)."""
    if not _IS_HTML.search(text[:20_000]):
        return text
    text = _BLOCK.sub("\n", _INVISIBLE.sub(" ", text))
    return html.unescape(_TAG.sub("", text))


def read_story(file: Path, title: str, bad: BadRecords) -> Document:
    """A downloaded story. Sources differ in encoding: see `decode`; the manifest counts what is not UTF-8."""
    if not file.is_file():
        raise BadRecordError("the story is missing")
    with open_bytes(file) as stream:
        content = stream.read()
    text, encoding = decode(content)
    if encoding != "UTF-8":
        bad.notes[f"stories read as {encoding}"] += 1
    return make_document(file.stem, title, strip_html(text.replace("\r\n", "\n")))


def _companion(qaps: Path, name: str) -> Path:
    path = qaps.parent / name
    if not path.exists():
        raise DataError(f"{path}: missing beside {qaps.name}; NarrativeQA needs documents.csv, qaps.csv and tmp/")
    return path


def _has_split(file: Path, split: str) -> bool:
    return any(row["set"] == split for _, row in read_table(file, BadRecords(skip=True), ("set",)))


def _read_narrativeqa(file: Path, split: str, bad: BadRecords) -> Iterator[Record]:
    """`qaps.csv` (two answers per question), `documents.csv` (title) and `tmp/<document_id>.content` (the story)."""
    documents, stories = (_companion(file, name) for name in _COMPANIONS)
    titles = {
        row["document_id"]: row["wiki_title"] for _, row in read_table(documents, bad, ("document_id", "wiki_title"))
    }
    columns = ("document_id", "set", "question", "answer1", "answer2")
    questions: dict[str, list[tuple[object, Example]]] = {}
    numbers: dict[str, int] = {}
    for place, row in read_table(file, bad, columns):
        with bad.at(place):
            if row["set"] not in _SETS:
                raise BadRecordError(f"the set is not {', '.join(_SETS)} (but {row['set']!r})")
            if row["set"] != split:
                continue
            doc_id = row["document_id"]
            number = numbers[doc_id] = numbers.get(doc_id, -1) + 1
            if doc_id not in titles:
                raise BadRecordError(f"document unknown to {documents.name} (document {doc_id!r})")
            if not _FILE_NAME.fullmatch(doc_id):
                raise BadRecordError(f"the document id is no file's name (it is {doc_id!r})")
            example = make_example(f"{doc_id}:{number}", row["question"], [row["answer1"], row["answer2"]], doc_id)
            questions.setdefault(doc_id, []).append((place, example))
    for doc_id, placed in questions.items():
        story = stories / f"{doc_id}.content"
        with bad.at(f"{placed[0][0]}, story {story}"):
            document = read_story(story, titles[doc_id], bad)
            yield Record(tuple(placed), document, (documents, story))


def write_demo(folder: Path, scenes: Scenes, rng: random.Random) -> None:
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
            summaries.append([document_id, name, summary, tokenized(summary)])
            for question in scene.questions:
                answer = question.fact.answer
                row = [document_id, name, question.text, answer, answer, tokenized(question.text)]
                pairs.append([*row, tokenized(answer), tokenized(answer)])
            write_text(folder / "tmp" / f"{document_id}.content", story)
    columns = "document_id set question answer1 answer2 question_tokenized answer1_tokenized answer2_tokenized"
    write_csv(folder / "qaps.csv", columns.split(), pairs)
    columns = "document_id set summary summary_tokenized"
    write_csv(folder / "third_party/wikipedia/summaries.csv", columns.split(), summaries)
    columns = (
        "document_id set kind story_url story_file_size wiki_url wiki_title story_word_count story_start story_end"
    )
    write_csv(folder / "documents.csv", columns.split(), documents)


SPEC = DatasetSpec(
    name="narrativeqa",
    version=1,
    citation="Kočiský et al. 2018, The NarrativeQA Reading Comprehension Challenge (arXiv 1712.07040)",
    open_domain=False,
    metrics=("f1_scrolls", "f1_first", "exact_match", "contains", "f1_unicode"),
    max_new_tokens=100,
    layouts={
        "official": Layout(
            ("qaps.csv", "*/qaps.csv"),
            train="train",
            test=("test", "valid"),
            read=_read_narrativeqa,
            usable=_has_split,
            companions=_COMPANIONS,
            # The official repository scrapes the stories from their websites; the archive holds the result.
            download=(
                *(
                    RawFile(f"{GITHUB}/google-deepmind/narrativeqa/master/{n}", n)
                    for n in ("documents.csv", "qaps.csv")
                ),
                RawFile(
                    "https://huggingface.co/datasets/deepmind/narrativeqa/resolve/main/data/narrativeqa_full_text.zip",
                    "narrativeqa_full_text.zip",
                    187416846,
                    "3e179a579d348da37b4929f20ece277a721f853fdc5efc11f915904de2a71727",
                    members=("*.content",),
                    into="tmp",
                ),
            ),
        ),
        "scrolls": scrolls_layout("narrative_qa"),
    },
    templates={"base": BASE, "instruct": INSTRUCT_SHORT},
    demo=Demo(CHARACTER, ("train", "test", "dev"), write_demo),
)
