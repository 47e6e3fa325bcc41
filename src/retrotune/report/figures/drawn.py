"""Which of a study's results figures draw: those of one retrieval, as one picture of several could not be read."""

from retrotune.report.gathering.collect import Result
from retrotune.report.gathering.rows import grouped, in_order, unique
from retrotune.report.tables.measures import Measures


def drawn_retrieval(measures: Measures) -> str:
    """The retrieval with the most scored cells, the first in the config among equals."""
    scored = grouped((r for r in measures.results if r.primary is not None), lambda r: r.retrieval)
    order = unique(result.retrieval for result in measures.results)
    return max(order, key=lambda name: len(scored.get(name, ())))


def drawn_results(measures: Measures) -> list[Result]:
    """Results of the retrieval that is drawn, in the order of rows."""
    drawn = drawn_retrieval(measures)
    return in_order([result for result in measures.results if result.retrieval == drawn])


def retrieval_note(measures: Measures) -> str:
    """Which retrieval is drawn, and how many are not."""
    others = len(unique(result.retrieval for result in measures.results)) - 1
    left = f"; {others} other{'s' * (others > 1)} not drawn" if others else ""
    return f"retrieval: {drawn_retrieval(measures)}{left}"


def order_of(results: list[Result]) -> tuple[list[str], list[str]]:
    """(methods, families) of results that have a score, in the order of the config."""
    kept = [result for result in results if result.primary is not None]
    return unique(result.method for result in kept), unique(result.arm for result in kept)
