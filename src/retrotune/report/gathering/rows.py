"""How results become rows: their order, their labels, and which runs are one row. For tables, costs and figures."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from retrotune.report.gathering.collect import Result

H = TypeVar("H", bound=Hashable)

AVERAGE = "Average"
"""What is printed for the mean over datasets."""
_ORDER = ("arm", "original", "method", "retrieval", "dataset", "model", "seed")


def unique(values: Iterable[H]) -> list[H]:
    """Values in the order of their first appearance."""
    return list(dict.fromkeys(values))


def in_order(results: Sequence[Result]) -> list[Result]:
    """Results by row (family, model, method, retrieval), dataset and run, each in the order of the config."""
    orders = [
        {value: place for place, value in enumerate(unique(getattr(result, name) for result in results))}
        for name in _ORDER
    ]
    return sorted(results, key=lambda r: [order[getattr(r, name)] for order, name in zip(orders, _ORDER, strict=True)])


def grouped(results: Iterable[Result], key: Callable[[Result], H]) -> dict[H, list[Result]]:
    """Results by `key`, in the order of its first appearance."""
    groups: dict[H, list[Result]] = defaultdict(list)
    for result in results:
        groups[key(result)].append(result)
    return dict(groups)


def in_rows(results: Sequence[Result]) -> list[list[Result]]:
    """Results of each row: a model with its replicates, a method, a retrieval; all its datasets and runs."""
    return list(grouped(in_order(results), lambda r: (r.original, r.method, r.retrieval)).values())


def row_labels(results: Sequence[Result]) -> tuple[list[str], Callable[[Result], tuple[str, ...]]]:
    """Names of the label columns, and the labels of a result: family, size with parameters, method.

    The model's name joins them where two models share family and size. Replicates go by the name of their model.
    """
    parameters = parameters_of(results)
    models: dict[tuple[str, str], set[str]] = defaultdict(set)
    for result in results:
        models[result.arm, result.size].add(result.original)
    named = any(len(names) > 1 for names in models.values())

    def label_of(result: Result) -> tuple[str, ...]:
        count = parameters.get(result.original)
        size = result.size if count is None else f"{result.size} ({human(count)})"
        return (result.arm, size, *((result.original,) if named else ()), result.method)

    return ["Family", "Size", *(("Model",) if named else ()), "Method"], label_of


def parameters_of(results: Iterable[Result]) -> dict[str, int]:
    """Parameters of each model whose were counted, replicates under the name of their model."""
    return {result.original: result.num_parameters for result in results if result.num_parameters}


def printable(text: str) -> str:
    """A text without control characters, which terminals obey and which no picture may hold."""
    return "".join(char if char.isprintable() else "?" for char in text)


def human(count: float) -> str:
    """A count with three digits and a unit: 823M, 2.25B, 79.4K."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= 0.9995 * size:
            return f"{count / size:#.3g}".rstrip(".") + unit
    return str(int(count))
