"""The diagnosis of a study: its cells' quadrants as a table, and the patterns of trouble that they show."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retrotune.errors import DataError
from retrotune.report.gathering.collect import Result
from retrotune.report.gathering.rows import in_rows, printable, row_labels, unique
from retrotune.report.judging.diagnosis import find, notes
from retrotune.report.judging.evidence import Evidence
from retrotune.report.judging.quadrants import RIGHT, Quadrants, as_record, count_quadrants, share, total
from retrotune.report.tables.measures import Measures, by_dataset
from retrotune.report.tables.render import write_table
from retrotune.report.tables.table import Table, Value
from retrotune.runtime.files import read_jsonl, read_result, write_json
from retrotune.runtime.log import logger
from retrotune.study.cells import Cell
from retrotune.study.paths import Paths
from retrotune.study.stages import DiagnoseParams


def diagnose_cells(
    params: DiagnoseParams,
    paths: Paths,
    results_json: str | Path,
    scores_parquet: str | Path,
    answers_parquet: str | Path,
    folder: str | Path,
) -> None:
    """Write diagnosis.json and, in all forms, the table `diagnosis` into `folder`.

    The inputs are what `collect_metrics` and `collect_answers` wrote; training logs are read from the cells' folders.
    """
    measures = Measures.load(results_json, scores_parquet)
    quadrants = count_quadrants(measures, answers_parquet)
    evidence = Evidence(measures, quadrants, _losses(paths, measures.results), params.effect)
    found, unknown = find(evidence), notes(evidence)
    record = {
        "uses": params.recorded(),
        "study": paths.name,
        "num_cells": len(measures.results),
        "cells": [as_record(cell, counts) for cell, counts in quadrants.items()],
        "findings": [asdict(finding) for finding in found],
        "notes": unknown,
    }
    table = diagnosis_table(measures.results, quadrants)
    table.notes += [f"{finding.says} {finding.remedy}" for finding in found] + unknown
    write_table(table, folder, "diagnosis")
    write_json(Path(folder) / "diagnosis.json", record)
    logger.info("diagnosed %d cells: %d patterns of known trouble", len(quadrants), len(found))


def load_diagnosis(path: str | Path) -> dict[str, Any]:
    """What `diagnose_cells` wrote to diagnosis.json."""
    found: dict[str, Any] = read_result(path)
    return found


def diagnosis_table(results: Sequence[Result], quadrants: Mapping[Cell, Quadrants]) -> Table:
    """A line per row and dataset, runs added up: what passages held, what was made of it, what was cut."""
    labels, label_of = row_labels(results)
    several = len(unique(result.retrieval for result in results)) > 1
    labels = [*labels, *(["Retrieval"] if several else []), "Dataset"]
    rows: list[list[Value]] = []
    rules = set()
    for members in in_rows(results):
        rules.add(len(rows))
        for dataset, same in by_dataset(members).items():
            runs = [quadrants[result.cell] for result in same if result.cell in quadrants]
            retrieval = [same[0].retrieval] if several else []
            rows.append([*label_of(same[0]), *retrieval, dataset, *_numbers(runs)])
    return Table(
        title="From retrieval to answer",
        columns=[
            *labels,
            "Questions",
            "Answer among passages %",
            "Right when it is there %",
            "Right when not %",
            "Copied %",
            "Cut %",
            "At cap %",
        ],
        rows=rows,
        num_labels=len(labels),
        formats=["d", *[".1f"] * 6],
        notes=[
            "Among passages: a passage that the cell was given holds an answer (DPR's string match). Right: a score of "
            f"{RIGHT:g} at least; unknown for metrics without a score per question. Copied: the prediction is a string "
            "of a passage. Cut: passages did not fit. At cap: the answer is as long as it may be. Runs of a row are "
            "counted together."
        ],
        rules=rules - {0},
    )


def _numbers(runs: Sequence[Quadrants]) -> list[Value]:
    """The number columns of a line; unknown where no run has a score."""
    if not runs:
        return [None] * 7
    found = total(runs)
    return [
        found.questions // len(runs),
        share(found.there, found.there + found.absent),
        share(found.there_right, found.there),
        share(found.absent_right, found.absent),
        share(found.copied, found.questions),
        share(found.cut, found.questions),
        share(found.at_cap, found.measured),
    ]


def as_text(diagnosis: Mapping[str, Any]) -> str:
    """The findings as the terminal shows them, the most serious first, each with its evidence and what to do."""
    findings, cells = diagnosis["findings"], len(diagnosis["cells"])
    if not cells:
        return printable(
            f"{diagnosis['study']}: none of {diagnosis['num_cells']} cells has a score: nothing is known yet"
        )
    of = f"{cells} cells" if cells == diagnosis["num_cells"] else f"{cells} of {diagnosis['num_cells']} cells"
    lines = [f"{diagnosis['study']}: nothing known is wrong in {of}"]
    if findings:
        patterns = "1 pattern" if len(findings) == 1 else f"{len(findings)} patterns"
        lines = [f"{diagnosis['study']}: {patterns} of known trouble in {of}, the most serious first"]
    for number, finding in enumerate(findings, 1):
        evidence = ", ".join(f"{name} {value:.4g}" for name, value in finding["evidence"].items())
        lines += ["", f"{number}. {finding['says']}", f"   {finding['cells'][0]}: {evidence}"]
        lines.append(f"   What to do: {finding['remedy']}")
    lines += ["", *diagnosis["notes"]] if diagnosis["notes"] else []
    return "\n".join(map(printable, lines))


def _losses(paths: Paths, results: Sequence[Result]) -> dict[Cell, list[float]]:
    """Losses of each trained cell with a score whose training log can be read; no rule keeps this file."""
    losses = {}
    for result in results:
        file = Path(paths.cell(result.cell, "train_log.jsonl"))
        if result.trained and result.primary is not None and file.exists():
            try:
                losses[result.cell] = [float(line["loss"]) for _, line in read_jsonl(file)]
            except (DataError, KeyError, TypeError, ValueError) as error:
                logger.warning("%s: cannot be read as a training log (%s), and is left out", file, error)
    return losses
