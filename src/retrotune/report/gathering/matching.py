"""Which cells stand opposite each other: those of two selections that agree in all that these do not change."""

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence

from retrotune.report.gathering.collect import Result
from retrotune.scoring.contrasts import Runs

READ: dict[str, Callable[[Result, Runs], Hashable]] = {
    "family": lambda result, runs: result.family,
    "size": lambda result, runs: result.size,
    "instruct": lambda result, runs: result.instruct,
    "retrieval_gate": lambda result, runs: 1.0 if result.retrieval_gate is None else result.retrieval_gate,
    "model": lambda result, runs: runs.model_of[result.model],
    "method": lambda result, runs: result.method,
    "dataset": lambda result, runs: result.dataset,
    "retrieval": lambda result, runs: result.retrieval,
    "replicate": lambda result, runs: runs.number_of[result.model],
    "seed": lambda result, runs: result.seed,
}
"""What cells are matched on."""
_FREES: dict[str, set[str]] = {
    "family": {"model", "retrieval_gate"},
    "size": {"model"},
    "instruct": {"model", "retrieval_gate"},
    "retrieval_gate": {"model"},
    "model": {"family", "size", "instruct", "retrieval_gate", "replicate"},
    "trained": {"method"},
    "method_kind": {"method"},
    "retriever_kind": {"retrieval"},
}
"""What may differ too where an attribute differs: a name follows from what it names."""


def kept(changed: Collection[str]) -> list[str]:
    """Attributes in which cells must agree where two selections differ in those that are `changed`."""
    free = set(changed).union(*(_FREES.get(name, set()) for name in changed))
    return [name for name in READ if name not in free]


def matched(
    first: Iterable[Result], second: Iterable[Result], changed: Collection[str], runs: Runs
) -> list[tuple[Sequence[Result], Sequence[Result]]]:
    """Groups of results that agree in all but what is `changed`: those of `first`, those of `second`; both have some.

    `changed` are the attributes in which the two selections differ. Runs stand opposite the runs of the same number.
    """
    reads = [READ[name] for name in kept(changed)]
    groups: dict[Hashable, tuple[list[Result], list[Result]]] = defaultdict(lambda: ([], []))
    for place, side in enumerate((first, second)):
        for result in side:
            groups[tuple(read(result, runs) for read in reads)][place].append(result)
    return [group for group in groups.values() if group[0] and group[1]]
