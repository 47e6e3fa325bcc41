"""What a table says below itself of where its results come from, as far as a reader must know it to trust them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any

from retrotune.report.gathering.collect import Result
from retrotune.report.gathering.present import cells_of
from retrotune.report.gathering.rows import grouped

NAMED = 3
"""So many of several cells are named."""
PACKAGES = ("retrotune", "torch", "transformers", "peft", "faiss", "rouge_score")
"""Packages that results depend on."""


def provenance_notes(results: Sequence[Result]) -> list[str]:
    """Notes on results that are not compared because they are not present ones, and on what programs made the others.

    None where all cells that have a score were made by one commit without changes, with the same packages.
    """
    scored = [result for result in results if result.primary is not None]
    return [*_not_compared(results), *_dirty(scored), *_commits(scored), *_packages(scored)]


def _not_compared(results: Sequence[Result]) -> Iterator[str]:
    """Outdated and damaged results, those with one problem together."""
    for status in ("outdated", "damaged"):
        cells = [result for result in results if result.status == status]
        # the file at the head of a problem is the cell's own, which is named anyway
        problems = grouped(cells, lambda result: (result.problem or "").split(".json: ", 1)[-1])
        for problem, members in problems.items():
            yield f"Not compared, {_of(members, results)} {status}: {_named(members)}: {problem}."


def _dirty(scored: Sequence[Result]) -> Iterator[str]:
    """Cells a stage of which was run by code that is in no commit."""
    made = [(result, stages) for result in scored if (stages := [*_stages(result, _is_dirty)])]
    if made:
        cells = [result for result, _ in made]
        yield (
            f"Made by a tree with uncommitted changes, {_of(cells, scored)} ({', '.join(_in_order(made))}): "
            f"{_named(cells)}. No commit holds the code that made them."
        )


def _commits(scored: Sequence[Result]) -> Iterator[str]:
    """The commits that cells were made by, where there are several."""
    counts = _counted(scored, lambda software: software["git"] and software["git"]["commit"][:7])
    if len(counts) > 1:
        yield (
            f"Stages were run by {len(counts)} commits ({_listed(counts)}), all with the same numbers of stages: none "
            "is known to change a result."
        )


def _packages(scored: Sequence[Result]) -> Iterator[str]:
    """Packages that cells were made with several versions of: results may differ by rounding, or by more."""
    for package in PACKAGES:
        counts = _counted(scored, itemgetter(package))
        if len(counts) > 1:
            yield f"Cells were made with {len(counts)} versions of {package}: {_listed(counts)}."


def _is_dirty(software: dict[str, Any]) -> bool:
    return bool(software["git"] and software["git"]["dirty"])


def _stages(result: Result, holds: Callable[[dict[str, Any]], bool]) -> Iterator[str]:
    """A cell's stages of whose software something holds."""
    for stage, software in result.provenance.get("software", {}).items():
        if software is not None and holds(software):
            yield stage


def _in_order(made: Iterable[tuple[Result, list[str]]]) -> list[str]:
    return list(dict.fromkeys(stage for _, stages in made for stage in stages))


def _counted(scored: Sequence[Result], of: Callable[[dict[str, Any]], str | None]) -> dict[str, int]:
    """In how many cells each value occurs, a cell counting for each that one of its stages has."""
    counts: dict[str, int] = {}
    for result in scored:
        software = [one for one in result.provenance.get("software", {}).values() if one is not None]
        for value in dict.fromkeys(of(one) for one in software):
            if value:
                counts[value] = counts.get(value, 0) + 1
    return counts


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{value} in {cells_of(count)}" for value, count in counts.items())


def _of(cells: Sequence[Result], all_cells: Sequence[Result]) -> str:
    return f"{len(cells)} of {len(all_cells)} cells"


def _named(cells: Sequence[Result]) -> str:
    names = ", ".join(result.name for result in cells[:NAMED])
    return names + (f" and {len(cells) - NAMED} more" if len(cells) > NAMED else "")
