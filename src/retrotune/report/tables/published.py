"""A study's scores beside published ones of models like its own."""

from collections.abc import Sequence

from retrotune.report.gathering.rows import in_rows, parameters_of, row_labels
from retrotune.report.tables.measures import Measures, by_dataset
from retrotune.report.tables.notes import interval_note, runs_note
from retrotune.report.tables.table import Table, Value
from retrotune.study.stages import Beside

_FACTOR = 1.25
"""How far counts of parameters may lie apart of models of one size: those of GPT and RETRO do by up to 1.13."""


def published_table(measures: Measures, published: Sequence[Beside]) -> Table:
    """A line per published number that has a row of the study beside it: ours, theirs, source and set-up.

    A model whose parameters were counted must have as many as the published one, within a quarter.
    """
    labels, label_of = row_labels(measures.results)
    counted = parameters_of(measures.results)
    rows: list[list[Value]] = []
    for members in in_rows(measures.results):
        first, own = members[0], by_dataset(members)
        for entry in published:
            number, count = entry.number, counted.get(first.original)
            named = first.original in entry.models and first.method in entry.methods
            if not named or first.retrieval not in entry.retrievals or entry.dataset not in own:
                continue
            if count and number.parameters and not 1 / _FACTOR <= count / number.parameters <= _FACTOR:
                continue
            ours = measures.value(own[entry.dataset])
            texts = [f"{entry.dataset} ({number.metric})", number.label, number.source, number.difference]
            rows.append([*label_of(first), first.retrieval, *texts, ours, number.value])
    notes = ["Published scores are of other set-ups: a difference to ours has more causes than one."]
    if not rows:
        notes = ["No published number is of a model like one of this study."]
    return Table(
        title="Scores beside published ones",
        columns=[*labels, "Retrieval", "Dataset", "Published model", "Source", "Its set-up", "Ours", "Published"],
        rows=rows,
        num_labels=len(labels) + 5,
        formats=[".1f", ".2f"],
        notes=[*notes, *([interval_note(measures), runs_note(measures)] if rows else [])],
        rules={i for i, row in enumerate(rows) if i and row[:2] != rows[i - 1][:2]},
        intervals={len(labels) + 5},
    )
