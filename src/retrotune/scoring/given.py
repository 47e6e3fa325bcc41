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
class _Passages:
    """The passages of one question, best first: the place of each id, its tokens, and whether they hold an answer."""

    place_of: dict[str, int]
    tokens: Sequence[str]
    holds: Sequence[bool]


class GivenPassages:
    """The passages of a dataset's test questions under one retrieval, and what they hold by DPR's string match.

    A passage is called by its rank, from 0. Titles do not count, as in `scoring.quality`.
    """

    def __init__(self, references: str | Path, neighbors: str | Path | None) -> None:
        known = load_references(references)
        found = {} if neighbors is None else load_neighbors(neighbors)
        self._path = neighbors
        self._of = {
            question: _passages([(passage.passage_id, passage.text) for passage in passages], known[question])
            for question, passages in found.items()
            if question in known
        }

    def ranks(self, question_id: str, passage_ids: Sequence[str]) -> list[int]:
        """Ranks of a question's passages by their ids; `ResultError` for one that it does not have."""
        if not passage_ids:
            return []
        places = self._of[question_id].place_of if question_id in self._of else {}
        try:
            return [places[passage] for passage in passage_ids]
        except KeyError as error:
            raise ResultError(
                f"{self._path}: question {question_id!r} has no passage {error.args[0]!r}, which a cell was given; run "
                "snakemake, which predicts the cell again"
            ) from error

    def hold_answer(self, question_id: str, ranks: Iterable[int]) -> bool:
        """Whether one of these passages holds an answer."""
        own = self._of.get(question_id)
        return own is not None and any(own.holds[rank] for rank in ranks)

    def hold(self, question_id: str, ranks: Iterable[int], prediction: str) -> bool:
        """Whether the tokens of a prediction follow each other in one of these passages; not so of an empty one."""
        own, wanted = self._of.get(question_id), spaced_tokens(prediction)
        return own is not None and bool(wanted.strip()) and any(wanted in own.tokens[rank] for rank in ranks)


def _passages(passages: Sequence[tuple[str, str]], reference: Reference) -> _Passages:
    answers = [wanted for wanted in map(spaced_tokens, reference.answers) if wanted.strip()]
    tokens = [spaced_tokens(text) for _, text in passages]
    return _Passages(
        {passage: rank for rank, (passage, _) in enumerate(passages)},
        tokens,
        [any(wanted in text for wanted in answers) for text in tokens],
    )
