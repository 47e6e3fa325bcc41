"""From a claim to weights on cells: which cells it chooses, which of them are matched, and what each counts.

Cells are matched on all attributes in which the selectors do not differ. What a selector sets frees what depends on it:
cells of two families are of two models, so the model's name is no attribute to match. A matched set of cells, one per
selector, is a *pair* (four cells for a difference of differences). Runs of one row are matched with runs of the same
number and seed, and count together as one pair. A cell without a score drops the pairs that it is in.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from retrotune.methods import METHODS
from retrotune.report.gathering.collect import Result, runs_of
from retrotune.report.gathering.matching import READ, kept
from retrotune.report.gathering.rows import grouped, unique
from retrotune.scoring.contrasts import Runs, WeightedPair
from retrotune.study.cells import Cell
from retrotune.study.config.claims import (
    Claim,
    DifferenceClaim,
    DifferenceOfDifferencesClaim,
    Rank,
    Selector,
    SlopeClaim,
)

_OF_MODEL = ("family", "size", "instruct", "retrieval_gate", "model")
_OF_SIZE = ("size", "model", "replicate", "seed")
"""What differs between the sizes of one group, and between their runs."""


class NotTestableError(Exception):
    """Why a claim cannot be tested in a study; `excluded` has its cells that are left out, each with the reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.excluded: dict[str, str] = {}


@dataclass(frozen=True)
class Term:
    """Some cells of a claim, by the key that chooses them, and the sign with which they count."""

    key: str
    sign: int
    selector: Selector


@dataclass(frozen=True)
class Grid:
    """A study's cells with what claims choose them by. `retrievers` has the kind of each retrieval's retriever."""

    results: Sequence[Result]
    retrievers: Mapping[str, str]
    runs: Runs = field(init=False)
    attributes: list[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "runs", runs_of(self.results))
        object.__setattr__(self, "attributes", [self._attributes(result) for result in self.results])

    def _attributes(self, result: Result) -> dict[str, Any]:
        chosen_by = {
            "method_kind": result.kind,
            "trained": result.trained,
            "retriever_kind": self.retrievers[result.retrieval],
        }
        return {name: read(result, self.runs) for name, read in READ.items()} | chosen_by

    def chosen(self, term: Term, within: Selector) -> list[int]:
        """Places of the cells that a term chooses; `NotTestableError` if there are none, or ranks are not known."""
        wanted = [*within.wanted().items(), *term.selector.wanted().items()]
        found = [n for n, own in enumerate(self.attributes) if all(own[key] in values for key, values in wanted)]
        ranks = [*within.ranks().items(), *term.selector.ranks().items()]
        if found and ranks:
            sizes = self._sizes_in(wanted, term, ranks)
            found = [n for n in found if self.attributes[n]["size"] in sizes]
        if not found:
            described = "; ".join(
                [*(f"{key} {' or '.join(sorted(map(_shown, values)))}" for key, values in wanted)]
                + [f"{key} {rank}" for key, rank in ranks]
            )
            raise NotTestableError(f"{term.key}: no cell of this study has {described or 'anything'}")
        return found

    def _sizes_in(
        self, wanted: Sequence[tuple[str, frozenset[object]]], term: Term, ranks: Sequence[tuple[str, Rank]]
    ) -> set[str]:
        """Sizes of certain ranks among the models that the other keys choose, whatever cells these models have."""
        of_model = [(key, values) for key, values in wanted if key in _OF_MODEL]
        parameters: dict[str, set[int]] = {}
        for result, own in zip(self.results, self.attributes, strict=True):
            if all(own[key] in values for key, values in of_model):
                known = parameters.setdefault(result.size, set())
                known |= {result.num_parameters} if result.num_parameters else set()
        if unknown := [size for size, known in parameters.items() if not known]:
            raise NotTestableError(
                f"{term.key}: sizes are ranked by parameters, which are not known of {', '.join(unknown)}: none of its "
                "cells is done"
            )
        order = sorted(parameters, key=lambda size: min(parameters[size]))
        places = {size: place for place, size in enumerate(order, start=1)}
        words = {"smallest": 1, "middle": len(order) // 2 + 1, "largest": len(order)}
        for key, rank in ranks:
            number = words[rank] if isinstance(rank, str) else rank
            places = {
                size: place
                for size, place in places.items()
                if (key != "size_from" or place >= number)
                and (key != "size_to" or place <= number)
                and (key != "size_rank" or place == number)
            }
        return set(places)


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Match:
    """What a claim rests on, and what is left out, with the reason.

    `combinations` are weights of cells; of several combinations the least counts. `parts` are those of each pair in
    them. `pairs` are the weighted pairs of cells of a plain difference. `num_pairs` of the `num_expected` pairs of the
    grid have scores.
    """

    combinations: list[dict[Cell, float]]
    parts: list[list[dict[Cell, float]]]
    pairs: list[WeightedPair] | None
    num_pairs: int
    num_expected: int
    excluded: dict[str, str]


def match(claim: Claim, grid: Grid) -> Match:
    """The cells of a claim, matched. Raises `NotTestableError` with the reason where there is nothing to test."""
    excluded: dict[str, str] = {}
    try:
        found = _match(claim, grid, excluded)
    except NotTestableError as error:
        error.excluded = excluded
        raise
    used = {cell.name for weights in found.combinations for cell in weights}
    _refuse_several_bases([result for result in grid.results if result.name in used])
    return replace(found, excluded={name: reason for name, reason in excluded.items() if name not in used})


def _refuse_several_bases(results: Sequence[Result]) -> None:
    """Refuse cells of one model whose base model was made anew in between."""
    for model, cells in grouped(results, lambda result: result.model).items():
        if len(unique(cell.fingerprint for cell in cells if cell.fingerprint)) > 1:
            raise NotTestableError(
                f"cells of {model} rest on different base models and cannot be compared: run snakemake, which makes "
                "the older ones again"
            )


def _match(claim: Claim, grid: Grid, excluded: dict[str, str]) -> Match:
    combinations, num_pairs, num_expected = [], 0, 0
    for terms in terms_of(claim):
        rows = _rows(terms, claim.within, grid, excluded)
        num_expected += len(rows)
        there = {row: complete for row, (complete, _) in rows.items() if complete}
        if isinstance(claim, SlopeClaim):
            weights = _slopes(there, grid, excluded)
        else:
            weights = {row: 1 / len(there) for row in there}
        num_pairs += len(weights)
        combinations.append(_combined(terms, there, weights, grid))
        if not weights:
            raise NotTestableError(
                f"a slope needs two sizes, but the {len(there)} matched pairs with scores are of one size"
                if there
                else f"none of the {len(rows)} matched pairs of the grid has scores"
            )
    if num_pairs < claim.needs * num_expected:
        raise NotTestableError(
            f"{num_pairs} of the {num_expected} matched pairs of the grid have scores, fewer than the share of "
            f"{claim.needs:g} that the claim needs"
        )
    plain = isinstance(claim, DifferenceClaim) and all(
        first.dataset == second.dataset for first, second, _ in combinations[0].pairs
    )
    return Match(
        [combination.weights for combination in combinations],
        [combination.parts for combination in combinations],
        combinations[0].pairs if plain else None,
        num_pairs,
        num_expected,
        excluded,
    )


def terms_of(claim: Claim) -> list[tuple[Term, ...]]:
    """The terms of each combination of a claim, each with its sign; several combinations for a ranking."""
    if isinstance(claim, DifferenceClaim):
        return [(Term("of", 1, claim.of), Term("against", -1, claim.against))]
    if isinstance(claim, DifferenceOfDifferencesClaim):
        return [
            (
                Term("of.end", 1, claim.of.end),
                Term("of.start", -1, claim.of.start),
                Term("against.end", -1, claim.against.end),
                Term("against.start", 1, claim.against.start),
            )
        ]
    if isinstance(claim, SlopeClaim):
        of = Term("of", 1, claim.of)
        return [(of,) if claim.against is None else (of, Term("against", -1, claim.against))]
    return [
        (Term(f"order.{place}", 1, better), Term(f"order.{place + 1}", -1, worse))
        for place, (better, worse) in enumerate(zip(claim.order, claim.order[1:], strict=False))
    ]


Row = tuple[Cell, ...]
"""The rows of a pair's cells: of each what stands for all of its runs."""
Tuples = list[tuple[int, ...]]


def _rows(
    terms: Sequence[Term], within: Selector, grid: Grid, excluded: dict[str, str]
) -> dict[Row, tuple[Tuples, Tuples]]:
    """Matched runs of each pair that the grid holds: those with scores, and the others. Says of cells why they drop."""
    chosen = [grid.chosen(term, within) for term in terms]
    _refuse_overlap(terms, chosen, grid)
    rows: dict[Row, tuple[Tuples, Tuples]] = {}
    matched: set[int] = set()
    lacking: dict[int, str] = {}
    for places in _matched(terms, within, chosen, grid):
        matched.update(places)
        row = tuple(grid.runs.row(grid.results[place].cell) for place in places)
        without = next((place for place in places if grid.results[place].primary is None), None)
        rows.setdefault(row, ([], []))[without is not None].append(places)
        if without is not None:
            lacking |= dict.fromkeys(places, f"matched with {grid.results[without].name}, which has no score")
    for place in unique(place for places in chosen for place in places):
        result = grid.results[place]
        if result.primary is None:
            excluded[result.name] = result.status + (f": {result.problem}" if result.problem else "")
        elif place not in matched:
            excluded.setdefault(result.name, "nothing in the grid to match it with")
        elif place in lacking:
            excluded.setdefault(result.name, lacking[place])
    if not rows:
        raise NotTestableError("no cells of the grid match: " + _why_unmatched(terms, within))
    return rows


def _refuse_overlap(terms: Sequence[Term], chosen: Sequence[Sequence[int]], grid: Grid) -> None:
    """Refuse cells that would be held against themselves."""
    for plus, minus in ((0, 1), (2, 3)):
        if minus >= len(terms):
            break
        both = sorted(set(chosen[plus]) & set(chosen[minus]))
        if both:
            raise NotTestableError(
                f"{terms[plus].key} and {terms[minus].key} both choose {grid.results[both[0]].name}"
                + (f" and {len(both) - 1} cells more" if len(both) > 1 else "")
            )


def _why_unmatched(terms: Sequence[Term], within: Selector) -> str:
    shared = sorted({key for n in range(1, len(terms)) for key in _matched_on(terms[0], terms[n], within)})
    return f"they differ in one of {', '.join(shared)}"


def _matched_on(one: Term, other: Term, within: Selector) -> list[str]:
    """Attributes in which cells of two terms must agree."""
    first, second = one.selector.wanted(), other.selector.wanted()
    differing = {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)}
    differing |= {"size"} if one.selector.ranks() != other.selector.ranks() else set()
    # what is not trained is the same with every seed
    if _untrained(within, one.selector) != _untrained(within, other.selector):
        differing.add("seed")
    return kept(differing)


def _untrained(*selectors: Selector) -> bool:
    """Whether all that is chosen trains nothing."""
    return any(
        selector.trained is False
        or ((kinds := selector.wanted().get("method_kind")) and not any(METHODS[str(k)].schema.trained for k in kinds))
        for selector in selectors
    )


def _matched(
    terms: Sequence[Term], within: Selector, chosen: Sequence[Sequence[int]], grid: Grid
) -> Iterator[tuple[int, ...]]:
    """One cell of each term, in all ways in which each two agree in what they are matched on."""
    tuples: list[tuple[int, ...]] = [(place,) for place in chosen[0]]
    for number in range(1, len(terms)):
        agreeing = [_matched_on(terms[before], terms[number], within) for before in range(number)]
        keys = unique(key for names in agreeing for key in names)
        index: dict[tuple[Hashable, ...], list[int]] = defaultdict(list)
        for place in chosen[number]:
            index[tuple(grid.attributes[place][key] for key in keys)].append(place)
        longer = []
        for places in tuples:
            needed: dict[str, Hashable] = {}
            for place, names in zip(places, agreeing, strict=True):
                own = grid.attributes[place]
                if any(needed.setdefault(key, own[key]) != own[key] for key in names):
                    break
            else:
                longer += [(*places, place) for place in index[tuple(needed[key] for key in keys)]]
        tuples = longer
    return iter(tuples)


class _Combination(NamedTuple):
    weights: dict[Cell, float]
    parts: list[dict[Cell, float]]
    pairs: list[WeightedPair]


def _combined(
    terms: Sequence[Term], rows: Mapping[Row, Tuples], weight_of: Mapping[Row, float], grid: Grid
) -> _Combination:
    """Weights of cells: of each pair its weight, spread evenly over its runs."""
    weights: dict[Cell, float] = defaultdict(float)
    parts, pairs = [], []
    for row, weight in weight_of.items():
        share = weight / len(rows[row])
        part: dict[Cell, float] = defaultdict(float)
        for places in rows[row]:
            cells = [grid.results[place].cell for place in places]
            for term, cell in zip(terms, cells, strict=True):
                part[cell] += term.sign * share
            if len(cells) == 2:
                pairs.append((cells[0], cells[1], share))
        for cell, own in part.items():
            weights[cell] += own
        parts.append(dict(part))
    return _Combination({cell: weight for cell, weight in weights.items() if weight}, parts, pairs)


def _slopes(rows: Mapping[Row, Tuples], grid: Grid, excluded: dict[str, str]) -> dict[Row, float]:
    """Weights that make points per doubling of parameters: least squares with one level per group of sizes.

    A group is what differs in size alone. One with a single size says nothing, and is left out. A pair's parameters are
    the geometric mean of its models'.
    """
    groups: dict[tuple[Any, ...], dict[Row, float]] = defaultdict(dict)
    for row, tuples in rows.items():
        places = tuples[0]
        parameters = [grid.results[place].num_parameters for place in places]
        if not all(parameters):
            names = ", ".join(grid.results[place].model for place in places)
            raise NotTestableError(f"a slope needs numbers of parameters, which are not known of {names}")
        key = tuple(tuple(value for name, value in grid.attributes[n].items() if name not in _OF_SIZE) for n in places)
        groups[key][row] = statistics.fmean(math.log2(count) for count in parameters if count)
    centered: dict[Row, float] = {}
    for members in groups.values():
        if len(set(members.values())) < 2:
            for place in unique(place for row in members for places in rows[row] for place in places):
                excluded.setdefault(grid.results[place].name, "no other size of its group has scores")
            continue
        mean = statistics.fmean(members.values())
        centered |= {row: doublings - mean for row, doublings in members.items()}
    total = sum(doublings**2 for doublings in centered.values())
    return {row: doublings / total for row, doublings in centered.items()}
