"""Instruction-tuned models beside their bases, method by method and dataset by dataset."""

from collections.abc import Sequence

from retrotune.data.scores import title_of
from retrotune.report.gathering.collect import FAMILIES, Result
from retrotune.report.gathering.rows import AVERAGE, in_rows
from retrotune.report.tables.measures import Measures, by_dataset, measured, minus, scored
from retrotune.report.tables.notes import interval_note, runs_note
from retrotune.report.tables.table import Table, Value
from retrotune.scoring.contrasts import mean_of, outcome
from retrotune.study.cells import Cell

_LABELS = ("Family", "Size", "Base model", "Instruct model", "Method", "Retrieval", "Dataset")


def instruct_table(measures: Measures) -> Table:
    """Base, instruct and their difference with intervals, for models of one family and size.

    An instruction-tuned model stands opposite the base with the same gate; where none has it, opposite all others of
    its family and size. Rows where neither has a score are left out.
    """
    of_model: dict[str, dict[tuple[str, str], list[Result]]] = {}
    for members in in_rows(measures.results):
        first = members[0]
        of_model.setdefault(first.original, {})[first.method, first.retrieval] = members
    firsts = {model: next(iter(rows.values()))[0] for model, rows in of_model.items()}
    rows: list[list[Value]] = []
    rules = set()
    for tuned, result in firsts.items():
        for base in _bases(result, firsts) if result.instruct else ():
            rules.add(len(rows))
            for key, members in of_model[tuned].items():
                names = [f"{name}{_gate_of(firsts[name])}" for name in (base, tuned)]
                labels = [FAMILIES[result.family], result.size, *names, *key]
                rows += _lines(measures, labels, of_model[base].get(key, []), members)
    return Table(
        title="Base models and instruction-tuned ones",
        columns=[*_LABELS, "Base", "Instruct", "Instruct - base"],
        rows=rows,
        num_labels=len(_LABELS),
        formats=[".1f", ".1f", "+.1f"],
        notes=[
            f"Differences are paired on the same questions, in points. {interval_note(measures)}",
            runs_note(measures),
        ],
        rules=rules - {0, len(rows)},
        intervals=set(range(len(_LABELS), len(_LABELS) + 3)),
    )


def _bases(tuned: Result, firsts: dict[str, Result]) -> list[str]:
    """The models that an instruction-tuned one is held against."""
    like = [
        (model, result)
        for model, result in firsts.items()
        if not result.instruct and (result.family, result.size) == (tuned.family, tuned.size)
    ]
    same = [model for model, result in like if _gate(result) == _gate(tuned)]
    return same or [model for model, _ in like]


def _gate_of(result: Result) -> str:
    """What the arm says of a model's gate, in brackets; nothing of an open one."""
    gate = result.arm.partition(", ")[2]
    return f" ({gate})" if gate else ""


def _gate(result: Result) -> float:
    return 1.0 if result.retrieval_gate is None else result.retrieval_gate


def _lines(
    measures: Measures, labels: Sequence[str], base: Sequence[Result], tuned: Sequence[Result]
) -> list[list[Value]]:
    """A line per dataset that one of both has a score on, and for the average where both have one."""
    lines: list[list[Value]] = []
    sides = [by_dataset(base), by_dataset(tuned)]
    for dataset in measures.datasets:
        both = [side.get(dataset, []) for side in sides]
        if any(scored(same) for same in both):
            title = next(title_of(result.metric) for same in both for result in same)
            values = [measures.value(same) for same in both]
            lines.append([*labels, f"{dataset} ({title})", *values, _difference(measures, *map(scored, both))])
    averaged = [measures.averaged(members) for members in (base, tuned)]
    if len(lines) > 1 and all(averaged):
        values = [measured(measures.average(members)) for members in (base, tuned)]
        lines.append([*labels, AVERAGE, *values, _difference(measures, *averaged)])
    return lines


def _difference(measures: Measures, base: Sequence[Cell], tuned: Sequence[Cell]) -> Value:
    if not base or not tuned:
        return None
    return measured(outcome(measures.sheets, [minus(mean_of(tuned), mean_of(base))], measures.runs))
