"""Claims: what a study is asked to confirm or to contradict, in a small typed language (docs/claims.md).

A claim compares cells with a margin. It chooses cells by their attributes, and so can be tested in any study: what a
study does not have makes a claim not testable there, and is no error.
"""

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, TypeVar, get_args

from pydantic import Field, model_validator

from retrotune.entries import Entry, Family, Name, PositiveInt, Share
from retrotune.methods import METHODS
from retrotune.study.config.retrievers import RetrieverEntry

T = TypeVar("T")
NO_RETRIEVER = "none"
"""The kind of retriever of a retrieval that has none."""

if TYPE_CHECKING:
    MethodKind = str
    RetrieverKind = str
else:
    MethodKind = Literal[tuple(METHODS)]
    RetrieverKind = Literal[(*get_args(RetrieverEntry.model_fields["kind"].annotation), NO_RETRIEVER)]
OneOrMore: TypeAlias = Annotated[tuple[T, ...], Field(min_length=1)] | T
Rank = PositiveInt | Literal["smallest", "middle", "largest"]
"""Of a size among those of a study: 1 is the smallest. Of two middle ones the larger is meant."""
RANKS = ("size_rank", "size_from", "size_to")


class Selector(Entry):
    """Chooses cells by attributes. A key takes one value or a list; what is left out is any."""

    family: OneOrMore[Family] | None = Field(None, description="gpt, retro")
    size: OneOrMore[Name] | None = Field(None, description="labels of sizes")
    size_rank: Rank | None = Field(
        None,
        description="place of the size by parameters, among the models that the other keys choose: a number from 1, "
        "smallest, middle or largest",
    )
    size_from: Rank | None = Field(None, description="as `size_rank`: sizes from this one on")
    size_to: Rank | None = Field(None, description="as `size_rank`: sizes up to this one")
    instruct: bool | None = Field(None, description="instruction-tuned models, or the others")
    retrieval_gate: OneOrMore[Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = Field(
        None, description="the model's; 1 where the study does not say"
    )
    method_kind: OneOrMore[MethodKind] | None = Field(None, description="kinds of methods")
    trained: bool | None = Field(None, description="methods that train something, or zero-shot")
    retriever_kind: OneOrMore[RetrieverKind] | None = Field(
        None, description="kinds of retrievers; none: retrievals without one"
    )
    model: OneOrMore[Name] | None = Field(
        None, description="entries of `models`; replicates go by the name of the model that they replicate"
    )
    method: OneOrMore[Name] | None = Field(None, description="entries of `methods`")
    dataset: OneOrMore[Name] | None = Field(None, description="entries of `datasets`")
    retrieval: OneOrMore[Name] | None = Field(None, description="entries of `retrievals`")

    def wanted(self) -> dict[str, frozenset[object]]:
        """The values asked for by attribute, without ranks of sizes, which are no attributes of a cell alone."""
        given = {key: getattr(self, key) for key in type(self).model_fields if key not in RANKS}
        return {
            key: frozenset(value if isinstance(value, tuple) else (value,))
            for key, value in given.items()
            if value is not None
        }

    def ranks(self) -> dict[str, Rank]:
        """The ranks of sizes asked for, by key."""
        return {key: getattr(self, key) for key in RANKS if getattr(self, key) is not None}

    def same_as(self, other: "Selector") -> bool:
        """Whether both choose the same cells in every study."""
        return self.wanted() == other.wanted() and self.ranks() == other.ranks()


class Change(Entry):
    """A change from some cells to others: the scores of `end` minus those of `start`."""

    start: Selector = Field(description="what is taken off")
    end: Selector = Field(description="what it is taken off from")

    @model_validator(mode="after")
    def _two(self) -> "Change":
        _refuse_same("start", self.start, "end", self.end)
        return self


class _Claim(Entry):
    """What all claims say."""

    says: str = Field(min_length=1, description="the claim in one English sentence")
    source: str | None = Field(None, min_length=1, description="where it is made")
    within: Selector = Field(default_factory=Selector, description="what all cells of the claim must be")
    margin: float = Field(
        0.0, allow_inf_nan=False, description="points that the effect is held against; its own unit for slopes"
    )
    needs: Annotated[Share, Field(gt=0)] = Field(
        0.8, description="share of the matched pairs of the grid that must have scores"
    )


class _Directed(_Claim):
    """A claim that the effect lies on one side of the margin."""

    direction: Literal["above", "below"] = Field("above", description="side of the margin that the claim says")


class DifferenceClaim(_Directed):
    """Scores of some cells minus those of others."""

    kind: Literal["difference"]
    of: Selector = Field(description="cells that count plus")
    against: Selector = Field(description="cells that count minus")

    @model_validator(mode="after")
    def _two_sides(self) -> "DifferenceClaim":
        _refuse_same("of", self.of, "against", self.against)
        return self


class DifferenceOfDifferencesClaim(_Directed):
    """One change minus another."""

    kind: Literal["difference_of_differences"]
    of: Change = Field(description="the change that counts plus")
    against: Change = Field(description="the change that counts minus")

    @model_validator(mode="after")
    def _two_changes(self) -> "DifferenceOfDifferencesClaim":
        if self.of.start.same_as(self.against.start) and self.of.end.same_as(self.against.end):
            raise ValueError("`of` and `against` are the same change: their difference is 0 in every study")
        return self


class SlopeClaim(_Directed):
    """Points per doubling of the model's parameters: of scores, or of their difference from others."""

    kind: Literal["slope"]
    of: Selector = Field(description="cells of several sizes")
    against: Selector | None = Field(None, description="cells whose scores are taken off; null: none")

    @model_validator(mode="after")
    def _two_sides(self) -> "SlopeClaim":
        if self.against is not None:
            _refuse_same("of", self.of, "against", self.against)
            for key in ("size", *RANKS, "model"):
                if getattr(self.of, key) != getattr(self.against, key):
                    raise ValueError(
                        f"{key}: differs between `of` and `against`, which are matched by size here: say it in `within`"
                    )
        return self


class RankingClaim(_Claim):
    """Each stands above the next by more than the margin; the effect is the least of these differences."""

    kind: Literal["ranking"]
    order: tuple[Selector, ...] = Field(min_length=2, description="the best first")

    @model_validator(mode="after")
    def _all_unlike(self) -> "RankingClaim":
        for place in range(1, len(self.order)):
            _refuse_same(f"order.{place - 1}", self.order[place - 1], f"order.{place}", self.order[place])
        return self


Claim = Annotated[
    DifferenceClaim | DifferenceOfDifferencesClaim | SlopeClaim | RankingClaim, Field(discriminator="kind")
]


def _refuse_same(name: str, first: Selector, other_name: str, second: Selector) -> None:
    if first.same_as(second):
        raise ValueError(f"`{name}` and `{other_name}` choose the same cells: their difference is 0 in every study")
