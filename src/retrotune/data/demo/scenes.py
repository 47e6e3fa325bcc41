"""Pages, documents and questions, drawn from a seeded random generator."""

import random
from dataclasses import dataclass

from retrotune.data.demo.facts import FACTS_PER_PAGE, SPEAKERS, Family, Relation
from retrotune.data.demo.names import Namer, thing

MIN_PAGES, MAX_PAGES = 4, 6
"""Pages of a document, so that a question's passage has to be found among its like."""

NUM_DISTRACTORS = 3


@dataclass(frozen=True)
class Fact:
    """One relation of a subject; `statement` is the sentence that says so."""

    subject: str
    relation: Relation
    value: str
    statement: str

    @property
    def answer(self) -> str:
        """Answer of every question about the fact, without a full stop."""
        return fill(self.relation.answer, self.subject, self.value)


@dataclass(frozen=True)
class Page:
    """Three facts about one subject, one sentence each. Meetings are reported by a speaker, who is named first."""

    subject: str
    facts: tuple[Fact, ...]
    speaker: str

    @property
    def text(self) -> str:
        """The sentences, without the speaker."""
        return " ".join(fact.statement for fact in self.facts)


@dataclass(frozen=True)
class Question:
    """A question about one fact of page number `page` of a document.

    `distractors` are wrong answers that differ from each other: first values of the same relation of other subjects
    in the document, then other values in it, and only if there are too few, values that do not occur in it.
    """

    text: str
    page: int
    fact: Fact
    distractors: tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """A document: an introduction, pages about subjects of one family, and questions about them."""

    family: Family
    title: str
    intro: str
    pages: tuple[Page, ...]
    questions: tuple[Question, ...]


def fill(template: str, subject: str, value: str) -> str:
    """A template with its names put in."""
    return template.replace("{e}", subject).replace("{v}", value)


def listing(names: list[str]) -> str:
    """'A, B and C'."""
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def draw_value(relation: Relation, namer: Namer, rng: random.Random, taken: set[str]) -> str:
    """A value that is not in `taken`, which it joins."""
    while (value := thing(rng) if relation.value == "thing" else namer.name(rng)) in taken:
        pass
    taken.add(value)
    return value


def draw_page(family: Family, namer: Namer, rng: random.Random, taken: set[str] | None = None) -> Page:
    """A page about a new subject; none of its names is in `taken`, which they join."""
    taken = set() if taken is None else taken
    while (subject := namer.subject(rng)) in taken:
        pass
    taken.add(subject)
    facts = []
    for relation in rng.sample(family.relations, FACTS_PER_PAGE):
        value = draw_value(relation, namer, rng, taken)
        facts.append(Fact(subject, relation, value, fill(rng.choice(relation.statements), subject, value)))
    return Page(subject, tuple(facts), rng.choice(SPEAKERS))


def draw_scene(family: Family, namer: Namer, rng: random.Random, num_questions: int) -> Scene:
    """A document of 4 to 6 pages with `num_questions` questions in held-out phrasings (or fewer: one per fact)."""
    taken: set[str] = set()
    place = namer.name(rng)
    taken.add(place)
    pages = tuple(draw_page(family, namer, rng, taken) for _ in range(rng.randint(MIN_PAGES, MAX_PAGES)))
    facts = [(number, fact) for number, page in enumerate(pages) for fact in page.facts]
    questions = []
    for number, fact in rng.sample(facts, min(num_questions, len(facts))):
        others = [other for _, other in rng.sample(facts, len(facts)) if other is not fact]
        others.sort(key=lambda other: other.relation is not fact.relation)
        wrong = [other.value for other in others if other.relation.value == fact.relation.value][:NUM_DISTRACTORS]
        wrong += [draw_value(fact.relation, namer, rng, taken) for _ in range(NUM_DISTRACTORS - len(wrong))]
        text = fill(rng.choice(fact.relation.held_out), fact.subject, fact.value)
        questions.append(Question(text, number, fact, tuple(wrong)))
    names = listing([page.subject for page in pages])
    intro = family.intro.replace("{p}", place).replace("{names}", names)
    return Scene(family, family.title.replace("{p}", place), intro, pages, tuple(questions))


def page_title(family: Family, page: Page, namer: Namer, rng: random.Random) -> str:
    """Title of a page that stands alone: its subject's name, or as that of a document which it could be part of."""
    return family.title.replace("{e}", page.subject).replace("{p}", namer.name(rng))


def draw_quiz(page: Page, rng: random.Random) -> list[str]:
    """One question about each fact, in seen phrasings and in the form of the base prompt with its answer."""
    lines = []
    for fact in rng.sample(page.facts, len(page.facts)):
        question = fill(rng.choice(fact.relation.seen), fact.subject, fact.value)
        lines.append(f"Question: {question.removesuffix('?')}? Answer: The answer is {fact.answer}.")
    return lines
