"""What the passages that a model was given hold: an answer, or what the model said."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from retrotune.data.datasets.base import Reference
from retrotune.errors import ResultError
from retrotune.preparing.examples import load_references
from retrotune.retrieval.caches.questions import load_neighbors
from retrotune.retrieval.search.answers import spaced_tokens


@dataclass(frozen=True)
class Passages:
    """The passages of one question, best first; each is called by its rank, from 0."""

    rank_of: dict[str, int]
    tokens: Sequence[str]
    holds: Sequence[bool]
    """Of each passage, whether it holds an answer."""

    def hold_answer(self, ranks: Iterable[int]) -> bool:
        """Whether one of these passages holds an answer."""
        return any(self.holds[rank] for rank in ranks)

    def hold(self, ranks: Iterable[int], text: str) -> bool:
        """Whether the tokens of a text follow each other in one of these passages; not so of one without tokens."""
        wanted = spaced_tokens(text)
        return any(wanted in self.tokens[rank] for rank in ranks) and bool(wanted.strip())


_NONE = Passages({}, (), ())


class GivenPassages:
    """The passages of a dataset's test questions under one retrieval, and what they hold by DPR's string match.

    Titles do not count, as in `scoring.quality`.
    """

    def __init__(self, references: str | Path, neighbors: str | Path) -> None:
        """`neighbors` is not there under a retrieval that gets nothing; whoever was given passages is refused then."""
        known = load_references(references)
        found = load_neighbors(neighbors) if Path(neighbors).exists() else {}
        self._path = neighbors
        self._of = {
            question: _passages([(passage.passage_id, passage.text) for passage in passages], known[question])
            for question, passages in found.items()
            if question in known
        }

    def of(self, question_id: str) -> Passages:
        """The passages of a question; none of one that was not searched for."""
        return self._of.get(question_id, _NONE)

    def ranks(self, question_id: str, passage_ids: Iterable[str]) -> tuple[int, ...]:
        """Ranks of a question's passages by their ids; `ResultError` for one that it does not have."""
        rank_of = self.of(question_id).rank_of
        try:
            return tuple(map(rank_of.__getitem__, passage_ids))
        except KeyError as error:
            raise ResultError(
                f"{self._path}: question {question_id!r} has no passage {error.args[0]!r}, which a cell was given; run "
                "snakemake, which predicts the cell again"
            ) from error


def _passages(passages: Sequence[tuple[str, str]], reference: Reference) -> Passages:
    answers = [wanted for wanted in map(spaced_tokens, reference.answers) if wanted.strip()]
    tokens = [spaced_tokens(text) for _, text in passages]
    return Passages(
        {passage: rank for rank, (passage, _) in enumerate(passages)},
        tokens,
        [any(wanted in text for wanted in answers) for text in tokens],
    )
