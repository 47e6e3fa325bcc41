"""What every dataset is: examples, official file layouts, prompts, post-processing.

One dataset is one file of this folder, which declares a `DatasetSpec` and reads its own raw records.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any, Literal, Self

from pydantic import model_validator

from retrotune.data.corpora.records import BadRecordError, BadRecords, Document, check_unicode, find_file, squeeze
from retrotune.data.demo.layouts import Demo
from retrotune.data.scores import METRICS
from retrotune.entries import Entry
from retrotune.errors import ConfigError, DataError

VARIANTS = ("base", "instruct")
GITHUB = "https://raw.githubusercontent.com"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Example:
    """A question with its reference answers.

    `doc_id` names the question's own document (None: open domain). `options` are the choices of a multiple-choice
    question in the order of their letters; its first answer is the text of the right one. `evidence` are paragraphs of
    the document in which annotators found the answer, where a dataset marks them; `types` says of what type each answer
    is (Qasper: one answer per annotator; QuALITY: hard or easy), by which scores are shown too.
    """

    question_id: str
    question: str
    answers: tuple[str, ...]
    doc_id: str | None = None
    options: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    types: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reference:
    """What an answer to a question is held against; the fields are those of `Example`."""

    question_id: str
    doc_id: str | None
    answers: tuple[str, ...]
    types: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True)
class Passage:
    """A retrieved passage as a prompt needs it."""

    passage_id: str
    title: str
    text: str
    score: float


@dataclass(frozen=True)
class Record:
    """What one raw record yields: at most one document, the questions about it, and further raw files it came from.

    Each question comes with its place, as `BadRecords` takes it.
    """

    placed: tuple[tuple[object, Example], ...]
    document: Document | None = None
    files: tuple[Path, ...] = ()


def make_example(
    question_id: str,
    question: str,
    answers: list[Any],
    doc_id: str | None = None,
    options: tuple[str, ...] = (),
    evidence: tuple[str, ...] = (),
    types: tuple[str, ...] = (),
) -> Example:
    """An example with white space squeezed, empty answers left out, and repeated ones unless answers have `types`.

    Raises `BadRecordError` for an empty id or question, an answer that is not text, text that UTF-8 cannot hold, and if
    no answer is left.
    """
    owner = f"question {question_id!r}"
    if not question_id:
        raise BadRecordError(f"empty question id (question {question!r})")
    for answer in answers:
        if not isinstance(answer, str):
            raise BadRecordError(f"an answer is not text (but {type(answer).__name__}, {owner})")
    check_unicode(owner, question_id, question, *answers, *options, *evidence, doc_id or "")
    squeezed = [squeeze(answer) for answer in answers]
    kept = tuple(answer for answer in squeezed if answer)
    if types:
        types = tuple(type_ for answer, type_ in zip(squeezed, types, strict=True) if answer)
    else:
        kept = tuple(dict.fromkeys(kept))
    if not squeeze(question):
        raise BadRecordError(f"empty question ({owner})")
    if not kept:
        raise BadRecordError(f"no answers ({owner})")
    return Example(question_id, squeeze(question), kept, doc_id, options, evidence, types)


def make_document(doc_id: str, title: str, text: str) -> Document:
    """A document with outer white space stripped.

    Raises `BadRecordError` if nothing is left, for an empty id, and for text that UTF-8 cannot hold.
    """
    owner = f"document {doc_id!r}"
    if not doc_id:
        raise BadRecordError(f"empty document id (title {title!r})")
    check_unicode(owner, doc_id, title, text)
    if not text.strip():
        raise BadRecordError(f"empty document ({owner})")
    return Document(doc_id, squeeze(title), text.strip())


def any_answer(verdicts: Iterable[bool | None]) -> bool:
    """Whether a split has answers, from whether each of its records has one (None: a malformed record says nothing).

    A split about which no record says anything counts as having them: what is wrong with it is reported as it is read.
    """
    answered = None
    for verdict in verdicts:
        if verdict:
            return True
        answered = answered if verdict is None else verdict
    return answered is None


@dataclass(frozen=True)
class RawFile:
    """One file of an official source: where it is, its name below the source's folder, and what is known of its bytes.

    Size and checksum are given only where they are published for that very file. An archive (zip, tar) is unpacked: the
    members whose last path part matches one of `members` land in the folder `into`, and the archive is deleted.
    """

    url: str
    name: str
    size: int | None = None
    sha256: str | None = None
    members: tuple[str, ...] = ()
    into: str = "."


@dataclass(frozen=True)
class Layout:
    """A way in which a dataset's raw files lie in a folder.

    `patterns` are globs with `{split}` for the raw split's name, best first; one file per split is read, the highest
    version of the first pattern that matches. `test` names the raw splits to test on in order of preference: the one
    that papers report comes first, and the first that is there with its answers (`usable`) is taken. `companions` are
    files and folders beside a split's file that belong to it. `download` are the official files, where there are some.
    """

    patterns: tuple[str, ...]
    train: str
    test: tuple[str, ...]
    read: Callable[[Path, str, BadRecords], Iterator[Record]]
    usable: Callable[[Path, str], bool] = field(default=lambda file, split: True)
    companions: tuple[str, ...] = ()
    download: tuple[RawFile, ...] = ()

    def find(self, path: Path, split: str) -> Path | None:
        """The file with raw split `split` below `path` (or `path` itself), if it is there, usable or not."""
        return find_file(path, tuple(pattern.replace("{split}", split) for pattern in self.patterns))

    def find_test(self, path: Path) -> tuple[str, Path]:
        """Raw split and file to test on; `DataError` names every file that would do."""
        return self._find_usable(path, self.test, "test")

    def find_train(self, path: Path) -> tuple[str, Path]:
        """Raw split and file to train on; `DataError` names every file that would do."""
        return self._find_usable(path, (self.train,), "training", "; to test only, set max_train to 0")

    def _find_usable(self, path: Path, splits: tuple[str, ...], purpose: str, remedy: str = "") -> tuple[str, Path]:
        rejected = ""
        for split in splits:
            file = self.find(path, split)
            if file is not None and self.usable(file, split):
                return split, file
            if file is not None:
                rejected += f"; {file} has no {split} questions with answers"
        wanted = " or ".join(pattern.replace("{split}", split) for split in splits for pattern in self.patterns)
        raise DataError(f"{path}: no {purpose} questions; looked for {wanted}{rejected}{remedy}")


class Template(Entry):
    """A prompt: `system` once, `context` per passage, `question`; then comes the answer, which is learned as `target`.

    Fields in braces: {title} and {text} of a passage; {question} and {options} of an example; {answer}. The rest says
    where an answer ends in what a model writes (`postprocess`).
    """

    system: str = ""
    context: str = "title: {title}, source: {text}\n\n"
    question: str
    target: str = " {answer}"
    cut_at_period: bool = True
    """A short answer ends at its first sentence, as the authors' post-processing has it."""
    answer_ends: Literal["line", "blank_line"] = "line"
    """Base models continue with further questions, so their answer ends with its line. Instructed ones may write lines,
    so theirs ends at a blank line, and may begin with other words than "The answer is"."""

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        for name, needed, others in (
            ("context", "text", {"title"}),
            ("question", "question", {"options"}),
            ("target", "answer", set()),
        ):
            found = {field for _, field, _, _ in Formatter().parse(getattr(self, name)) if field is not None}
            if needed not in found or found - {needed} - others:
                known = " and ".join(f"{{{field}}}" for field in sorted({needed, *others}))
                raise ValueError(f"{name}: {{{needed}}} must be in it; known are {known}")
        return self

    def context_piece(self, passage: Passage) -> str:
        """One passage, with the blank line that separates it from what follows."""
        return self.context.format(title=squeeze(passage.title), text=squeeze(passage.text))

    def neighbor(self, passage: Passage) -> str:
        """One passage as a text of its own, as the encoder of neighbors reads it."""
        return self.context_piece(passage).strip()

    def question_piece(self, example: Example) -> str:
        """The question (and its lettered options) up to where the answer begins; never truncated."""
        question = example.question if example.question.endswith(("?", ".", "!")) else f"{example.question}?"
        options = " ".join(f"({letter}) {text}" for letter, text in zip(LETTERS, example.options, strict=False))
        return self.question.format(question=question, options=options)

    def target_piece(self, example: Example) -> str:
        """The text to learn after the prompt: the first reference answer, by default after a blank."""
        return self.target.format(answer=example.answers[0])

    def prompt(self, example: Example, contexts: Sequence[Passage]) -> str:
        """The whole prompt: system, contexts, question, in this order."""
        return "".join([self.system, *map(self.context_piece, contexts), self.question_piece(example)])

    def postprocess(self, text: str) -> str:
        """The answer within generated text.

        It ends as `answer_ends` says. Then, as the authors do: what follows "The answer is", up to the first period
        (`cut_at_period`). Ours must be followed by white space or the end, so that "3.5" and "J.K." survive; "St.
        Louis" is still cut, as by the authors.
        """
        instructed = self.answer_ends == "blank_line"
        text = re.split(r"\n\s*\n" if instructed else r"\n", text.strip(), maxsplit=1)[0]
        cue = r"^.*?\bthe answer is\b:?" if instructed else r"^the answer is\b:?"
        text = re.sub(cue, "", squeeze(text), count=1, flags=re.IGNORECASE).strip()
        text = re.sub(r"^answer:", "", text, flags=re.IGNORECASE).strip()
        if self.cut_at_period:
            text = re.split(r"\.(?:\s|$)", text, maxsplit=1)[0].strip()
        return text


# arXiv 2310.07713, table 10, as published; the prompt that instruction-tuned RETRO and GPT were trained with.
SYSTEM = (
    "System: This is a chat between a user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions based on the context. The assistant should also indicate "
    "when the answer cannot be found in the context.\n\n"
)
BASE = Template(question="Question: {question} Answer: The answer is")
INSTRUCT_SHORT = Template(
    system=SYSTEM,
    question="User: Answer the following question with a short span. {question}\n\nAssistant: The answer is",
    answer_ends="blank_line",
)
INSTRUCT_LONG = Template(
    system=SYSTEM,
    question="User: Please give a full and complete answer for the question. {question}\n\nAssistant:",
    answer_ends="blank_line",
)


@dataclass(frozen=True)
class DatasetSpec:
    """Everything that the other rooms need to know of a dataset.

    `version` is raised whenever splits or answers change such that scores do. `metrics` are those of
    `retrotune.data.scores` that its answers are scored by, the official evaluator's first: it is the headline. Another
    is refused with a `ConfigError` before anything runs that could not be scored.
    `templates` are its prompt variants: `base` for models that continue text, `instruct` for those that follow orders.
    `gold`: a passage can hold an answer, which is not so of summaries. `demo` is the dataset's part of the demo world;
    None: it has none.
    """

    name: str
    version: int
    citation: str
    open_domain: bool
    metrics: tuple[str, ...]
    max_new_tokens: int
    layouts: dict[str, Layout]
    templates: dict[str, Template]
    gold: bool = True
    demo: Demo | None = None

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ConfigError(f"dataset {self.name}: no metric; known: {', '.join(METRICS)}")
        for metric in self.metrics:
            if metric not in METRICS:
                raise ConfigError(f"dataset {self.name}: metric {metric!r} is unknown; known: {', '.join(METRICS)}")

    @property
    def metric(self) -> str:
        """The headline metric."""
        return self.metrics[0]

    def layout(self, name: str) -> Layout:
        """The layout called `name`; `ConfigError` if the dataset has no such layout."""
        if name not in self.layouts:
            raise ConfigError(f"dataset {self.name} has no layout {name!r}; it has {', '.join(self.layouts)}")
        return self.layouts[name]

    def source(self, layout: str) -> str:
        """Name of the official source of a layout's files."""
        return self.name if layout == "official" else f"{self.name}-{layout}"

    def prompt_of(self, variant: str) -> Template:
        """The prompt of a variant; `ConfigError` if the dataset has no such variant."""
        if variant not in self.templates:
            raise ConfigError(f"prompt variant {variant!r}: known are {', '.join(self.templates)}")
        return self.templates[variant]

    def prompt(self, example: Example, contexts: Sequence[Passage], variant: str) -> str:
        """The whole prompt as text, in a variant."""
        return self.prompt_of(variant).prompt(example, contexts)

    def target(self, example: Example, variant: str = "base") -> str:
        """The text to learn after the prompt, in a variant."""
        return self.prompt_of(variant).target_piece(example)
