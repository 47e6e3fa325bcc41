"""What can be said and asked in the demo world: families of subjects and their relations, as data.

Every statement has five or six words, because a page is three statements and the passages of the demo have 19 words at
most: 15 to 18 words fill a passage, and no statement of the next page fits in. Each relation has three statements and
four questions. The first two questions are seen in pretraining, the other two are held out for the datasets; they
mostly use words of the statements, so that they can be understood by who has understood those.
"""

from dataclasses import dataclass
from typing import Literal

MIN_STATEMENT_WORDS, MAX_STATEMENT_WORDS = 5, 6
FACTS_PER_PAGE = 3
PASSAGE_WORDS = 19
"""The chunking that suits the world: a page of 15 to 18 words and one word for a heading or a speaker."""


@dataclass(frozen=True)
class Relation:
    """`{e}` is the subject's name, `{v}` the value's; `answer` is what a question's answer says."""

    name: str
    value: Literal["name", "thing"]
    statements: tuple[str, str, str]
    seen: tuple[str, str]
    held_out: tuple[str, str]
    answer: str = "{v}"


@dataclass(frozen=True)
class Family:
    """Subjects of one kind.

    `title` and `intro` are those of a document about several of them, set in the place `{p}`; an introduction is as
    long as a page. `spoken`: pages are turns of a meeting, each with its speaker.
    """

    name: str
    title: str
    intro: str
    relations: tuple[Relation, ...]
    spoken: bool = False

    def lead(self, speaker: str) -> str:
        """What stands before a page in running text."""
        return f"{speaker}: " if self.spoken else ""


PERSON = Family(
    "person",
    "{e}",
    "",
    (
        Relation(
            "home",
            "name",
            ("{e} now lives in {v}.", "The home of {e} is {v}.", "{e} has a house in {v}."),
            ("Where does {e} live?", "In which town does {e} live?"),
            ("Where is the home of {e}?", "Where does {e} have a house?"),
        ),
        Relation(
            "birthplace",
            "name",
            ("{e} was born in {v}.", "The birthplace of {e} is {v}.", "{e} came to life in {v}."),
            ("Where was {e} born?", "In which town was {e} born?"),
            ("What is the birthplace of {e}?", "In which place was {e} born?"),
        ),
        Relation(
            "spouse",
            "name",
            ("{e} is married to {v}.", "The spouse of {e} is {v}.", "{e} chose {v} as a spouse."),
            ("Who is married to {e}?", "Whom did {e} marry?"),
            ("Who is the spouse of {e}?", "To whom is {e} married?"),
        ),
        Relation(
            "teacher",
            "name",
            ("{e} was taught by {v}.", "The teacher of {e} was {v}.", "{e} learned to sing from {v}."),
            ("Who taught {e}?", "From whom did {e} learn?"),
            ("Who was the teacher of {e}?", "By whom was {e} taught?"),
        ),
        Relation(
            "possession",
            "thing",
            ("{e} owns {v}.", "{e} keeps {v} safe.", "{e} always carries {v}."),
            ("What does {e} own?", "Which thing does {e} own?"),
            ("What does {e} keep safe?", "What does {e} always carry?"),
        ),
    ),
)

TOWN = Family(
    "town",
    "{e}",
    "",
    (
        Relation(
            "founder",
            "name",
            ("{e} was founded by {v}.", "The founder of {e} is {v}.", "{v} founded {e} long ago."),
            ("Who founded {e}?", "Who founded the town {e}?"),
            ("Who is the founder of {e}?", "By whom was {e} founded?"),
        ),
        Relation(
            "river",
            "name",
            ("The river {v} crosses {e}.", "{e} lies on the river {v}.", "The river near {e} is {v}."),
            ("Which river crosses {e}?", "On which river does {e} lie?"),
            ("Which river is near {e}?", "What is the river of {e}?"),
        ),
        Relation(
            "mayor",
            "name",
            ("The mayor of {e} is {v}.", "{e} is ruled by {v}.", "The people of {e} obey {v}."),
            ("Who rules {e}?", "Whom do the people of {e} obey?"),
            ("Who is the mayor of {e}?", "By whom is {e} ruled?"),
        ),
        Relation(
            "landmark",
            "thing",
            ("{e} honors {v}.", "{e} proudly shows {v}.", "{e} celebrates {v} yearly."),
            ("What does {e} honor?", "What is honored in {e}?"),
            ("What does {e} proudly show?", "What does {e} celebrate yearly?"),
        ),
    ),
)

CHARACTER = Family(
    "character",
    "Tale of {p}",
    "This is an old tale from {p}. Nobody knows who wrote it, but everybody tells it gladly.",
    (
        Relation(
            "quest",
            "thing",
            ("{e} seeks {v}.", "{e} searches for {v}.", "{e} longs for {v}."),
            ("What does {e} seek?", "What is {e} seeking?"),
            ("What does {e} search for?", "What does {e} long for?"),
        ),
        Relation(
            "helper",
            "name",
            ("{e} is helped by {v}.", "The helper of {e} is {v}.", "{v} comes to help {e}."),
            ("Who helps {e}?", "Who comes to help {e}?"),
            ("Who is the helper of {e}?", "By whom is {e} helped?"),
        ),
        Relation(
            "enemy",
            "name",
            ("{e} is hunted by {v}.", "The enemy of {e} is {v}.", "{e} runs away from {v}."),
            ("Who hunts {e}?", "From whom does {e} run away?"),
            ("Who is the enemy of {e}?", "By whom is {e} hunted?"),
        ),
        Relation(
            "refuge",
            "name",
            ("{e} is hiding in {v}.", "The refuge of {e} is {v}.", "{e} finds shelter in {v}."),
            ("Where is {e} hiding?", "Where does {e} hide?"),
            ("What is the refuge of {e}?", "Where does {e} find shelter?"),
        ),
    ),
)

METHOD = Family(
    "method",
    "Methods for {p}",
    "We compare several methods for the language of {p}. Each method is described in one paragraph.",
    (
        Relation(
            "data",
            "name",
            ("{e} is trained on {v}.", "{e} learns everything from {v}.", "{e} takes examples from {v}."),
            ("What is {e} trained on?", "On what is {e} trained?"),
            ("What does {e} learn from?", "What does {e} take examples from?"),
        ),
        Relation(
            "baseline",
            "name",
            ("{e} is compared with {v}.", "The baseline of {e} is {v}.", "{e} works better than {v}."),
            ("What is {e} compared with?", "What does {e} work better than?"),
            ("What is the baseline of {e}?", "With what is {e} compared?"),
        ),
        Relation(
            "benchmark",
            "name",
            ("{e} is tested on {v}.", "The benchmark of {e} is {v}.", "{e} is evaluated with {v}."),
            ("What is {e} tested on?", "What is {e} evaluated with?"),
            ("What is the benchmark of {e}?", "On what is {e} tested?"),
        ),
        Relation(
            "author",
            "name",
            ("{e} was proposed by {v}.", "The author of {e} is {v}.", "{v} designed the method {e}."),
            ("Who proposed {e}?", "Who designed {e}?"),
            ("Who is the author of {e}?", "By whom was {e} proposed?"),
        ),
    ),
)

SHIP = Family(
    "ship",
    "Ships of {p}",
    "The harbor office of {p} keeps a list of ships. Here is the list of this year.",
    (
        Relation(
            "captain",
            "name",
            ("The captain of {e} is {v}.", "{e} is commanded by {v}.", "{v} steers the ship {e}."),
            ("Who commands {e}?", "Who steers {e}?"),
            ("Who is the captain of {e}?", "By whom is {e} commanded?"),
        ),
        Relation(
            "harbor",
            "name",
            ("{e} sailed away from {v}.", "The harbor of {e} is {v}.", "{e} left {v} at dawn."),
            ("Where did {e} sail from?", "Which harbor did {e} leave?"),
            ("What is the harbor of {e}?", "From where did {e} sail away?"),
        ),
        Relation(
            "goal",
            "name",
            ("{e} is bound for {v}.", "The goal of {e} is {v}.", "{e} will arrive in {v}."),
            ("Where is {e} bound for?", "Where will {e} arrive?"),
            ("What is the goal of {e}?", "For which place is {e} bound?"),
        ),
        Relation(
            "cargo",
            "thing",
            ("{e} transports {v}.", "{e} delivers {v}.", "{e} brings {v} along."),
            ("What does {e} transport?", "What is {e} transporting?"),
            ("What does {e} deliver?", "What does {e} bring along?"),
        ),
    ),
)

COLLEAGUE = Family(
    "colleague",
    "Meeting",
    "Welcome to the meeting. Today we hear about the plans of {names}.",
    (
        Relation(
            "wish",
            "thing",
            ("{e} wants {v}.", "{e} asks for {v}.", "{e} would like {v}."),
            ("Summarize the wish of {e}", "What was said about the wish of {e}?"),
            ("Summarize what {e} asks for", "What did the group hear about the wish of {e}?"),
            "{e} wants {v}",
        ),
        Relation(
            "trip",
            "name",
            ("{e} will travel to {v}.", "{e} plans to visit {v}.", "{e} has tickets to {v}."),
            ("Summarize the trip of {e}", "What was said about the trip of {e}?"),
            ("Summarize where {e} will travel", "What did the group hear about the trip of {e}?"),
            "{e} will travel to {v}",
        ),
        Relation(
            "partner",
            "name",
            ("{e} will work with {v}.", "The partner of {e} is {v}.", "{e} is paired with {v}."),
            ("Summarize the work of {e}", "What was said about the partner of {e}?"),
            ("Summarize who is the partner of {e}", "What did the group hear about the work of {e}?"),
            "{e} will work with {v}",
        ),
        Relation(
            "worry",
            "name",
            ("{e} is worried about {v}.", "The worry of {e} is {v}.", "{e} expects trouble with {v}."),
            ("Summarize the worry of {e}", "What was said about the worry of {e}?"),
            ("Summarize the trouble of {e}", "What did the group hear about the worry of {e}?"),
            "{e} is worried about {v}",
        ),
    ),
    spoken=True,
)

SPEAKERS = ("Clerk", "Editor", "Engineer", "Reporter", "Secretary")
"""Who speaks in a meeting, besides the chair."""
