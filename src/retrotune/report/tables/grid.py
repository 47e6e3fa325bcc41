"""The comparison table in the paper's shape, and the same numbers a line each.

A row is a model with its replicates and seeds, a method and, where a study has several, a retrieval.
"""

from collections.abc import Sequence

from retrotune.data.scores import title_of
from retrotune.report.gathering.collect import Result
from retrotune.report.gathering.rows import AVERAGE, in_rows, parameters_of, row_labels, unique
from retrotune.report.tables.measures import Measures, by_dataset, measured, scored, state_of
from retrotune.report.tables.notes import grid_notes, interval_note, legend_of, runs_note
from retrotune.report.tables.significance import mark
from retrotune.report.tables.table import YES_NO, Table, Value, value_of
from retrotune.scoring.contrasts import Outcome


def comparison_table(measures: Measures, resamples: int, max_listed: int | None = None) -> Table:
    """Rows family x size x method (x retrieval if several), columns the datasets' headline metrics and their average.

    The average, of two datasets or more, needs every dataset: a row with a gap has none. The best of each column is
    marked, and what is not significantly worse. Cells without a score are listed below, at most `max_listed` of them by
    name.
    """
    results, datasets = measures.results, measures.datasets
    several = len(unique(result.retrieval for result in results)) > 1
    averaged = [AVERAGE] if len(datasets) > 1 else []
    labels, label_of = row_labels(results)
    labels = [*labels, "Retrieval"] if several else labels
    rows: list[list[Value]] = []
    rules, cells_at = set(), {}
    for number, members in enumerate(in_rows(results)):
        own = by_dataset(members)
        key = [*label_of(members[0]), *([members[0].retrieval] if several else [])]
        if number and key[:2] != rows[-1][:2]:
            rules.add(number)
        for place, dataset in enumerate(datasets):
            cells_at[number, len(labels) + place] = scored(own.get(dataset, ()))
        rows.append([*key, *(measures.value(own.get(dataset, [])) for dataset in datasets)])
        if averaged:
            cells_at[number, len(labels) + len(datasets)] = measures.averaged(members)
            rows[-1].append(measured(measures.average(members)))
    metrics = {result.dataset: title_of(result.metric) for result in results}
    table = Table(
        title="Scores by model and method",
        columns=[*labels, *(f"{dataset} ({metrics[dataset]})" for dataset in datasets), *averaged],
        rows=rows,
        num_labels=len(labels),
        formats=[".1f"] * len(datasets + averaged),
        rules=rules,
        intervals=set(range(len(labels), len(labels) + len(datasets + averaged))),
        footers=[["Questions (documents)", *[""] * (len(labels) - 1), *_sizes(measures)]],
    )
    marked = mark(table, cells_at, measures, resamples)
    table.legend = legend_of(marked)
    table.notes = grid_notes(measures, max_listed)
    return table


def _sizes(measures: Measures) -> list[str]:
    """Questions, and in brackets documents where all have some, of each dataset and of several together."""
    counts = [(measures.num_questions(name), measures.num_documents(name)) for name in measures.datasets]
    if len(counts) > 1:
        questions, documents = (sum(filter(None, side)) if all(side) else None for side in zip(*counts, strict=True))
        counts.append((questions, documents))
    return ["–" if not n else f"{n} ({of})" if of else str(n) for n, of in counts]


LONG = {
    "family": "",
    "size": "",
    "model": "",
    "method": "",
    "retrieval": "",
    "dataset": "",
    "metric": "",
    "status": "",
    "parameters": "d",
    "runs": "d",
    "n": "d",
    "documents": "d",
    "value": ".2f",
    "low": ".2f",
    "high": ".2f",
    "best": YES_NO,
    "not_worse_than_best": YES_NO,
}
"""Columns of the long form and their formats; labels first."""


def long_table(measures: Measures, comparison: Table) -> Table:
    """A line per row and dataset, and for the average; the marks are those of `comparison`, which has the same rows.

    `runs` are those with a score. The marks are unknown where a column has none.
    """
    counted = parameters_of(measures.results)
    metrics = {result.dataset: title_of(result.metric) for result in measures.results}
    rows: list[list[Value]] = []
    rules = set()
    for number, members in enumerate(in_rows(measures.results)):
        first, own = members[0], by_dataset(members)
        rules.add(len(rows))
        for place, dataset in enumerate([*measures.datasets, *([None] if len(measures.datasets) > 1 else [])]):
            same = members if dataset is None else own.get(dataset, [])
            found = measures.average(same) if dataset is None else measures.score(same)
            at = number, comparison.num_labels + place
            rows.append(
                [
                    *(first.arm, first.size, first.original, first.method, first.retrieval),
                    *((AVERAGE, "mean of all") if dataset is None else (dataset, metrics[dataset])),
                    _status(same, found),
                    counted.get(first.original),
                    *_counts(measures, same, dataset, found),
                    *_numbers(found),
                    *_marks(comparison, at, found is not None),
                ]
            )
    names = list(LONG)
    num_labels = sum(not spec for spec in LONG.values())
    return Table(
        title="Scores by model and method, a line each",
        columns=names,
        rows=rows,
        num_labels=num_labels,
        formats=list(LONG.values())[num_labels:],
        notes=comparison.notes,
        rules=rules - {0},
    )


def _status(results: Sequence[Result], found: Outcome | None) -> str:
    """As `state_of`; cells that were never planned leave an average without a value too."""
    state = state_of(results)
    return "missing" if found is None and state in ("done", "partial") else state


def _counts(measures: Measures, results: Sequence[Result], dataset: str | None, found: Outcome | None) -> list[Value]:
    """Runs, questions and documents of a line.

    Of the average the fewest runs, and documents only where all questions have some.
    """
    runs = [sum(result.primary is not None for result in own) for own in by_dataset(results).values()]
    names = measures.datasets if dataset is None else [dataset]
    if found is None:
        return [0 if dataset is not None else None, None, None]
    documents = [measures.num_documents(name) for name in names]
    return [
        min(runs),
        sum(measures.num_questions(name) or 0 for name in names),
        sum(filter(None, documents)) if all(documents) else None,
    ]


def _numbers(found: Outcome | None) -> list[Value]:
    number = measured(found)
    return [None, None, None] if number is None else list(number)


def _marks(comparison: Table, at: tuple[int, int], known: bool) -> list[Value]:
    if not known or not any(column == at[1] for _, column in comparison.best):
        return [None, None]
    near = None if at in comparison.untested else at in comparison.best or at in comparison.near
    return [at in comparison.best, near]


def retrieval_table(measures: Measures) -> Table:
    """The same cells under each retrieval, side by side.

    Only those with a value under at least two retrievals are rows: they are the ones that can be compared.
    """
    results = measures.results
    retrievals = unique(result.retrieval for result in results)
    labels, label_of = row_labels(results)
    groups: dict[tuple[str, ...], dict[str, list[Result]]] = {}
    for members in in_rows(results):
        for dataset, same in by_dataset(members).items():
            key = (*label_of(same[0]), f"{dataset} ({title_of(same[0].metric)})")
            groups.setdefault(key, {})[same[0].retrieval] = same
    rows: list[list[Value]] = []
    for key, by_retrieval in groups.items():
        values = [measures.value(by_retrieval.get(name, [])) for name in retrievals]
        if sum(not isinstance(value_of(value), str | None) for value in values) > 1:
            rows.append([*key, *values])
    return Table(
        title="The same cells under each retrieval",
        columns=[*labels, "Dataset", *retrievals],
        rows=rows,
        num_labels=len(labels) + 1,
        formats=[".1f"] * len(retrievals),
        notes=[
            "Only cells with a score under at least two retrievals are shown. Intervals are of each score, not of "
            "differences: `retrotune compare` tests those.",
            f"Scores from 0 to 100. {interval_note(measures)}",
            runs_note(measures),
        ],
        rules={i for i, row in enumerate(rows) if i and row[: len(labels)] != rows[i - 1][: len(labels)]},
        intervals=set(range(len(labels) + 1, len(labels) + 1 + len(retrievals))),
    )
