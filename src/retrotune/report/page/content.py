"""What the page says beside the explorer: claims, tables with the cells behind their numbers, findings, provenance."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retrotune.report.gathering.collect import Result
from retrotune.report.gathering.provenance import provenance_notes
from retrotune.report.gathering.rows import in_order, in_rows, unique
from retrotune.report.judging.claims import claim_notes
from retrotune.report.tables.measures import Measures, by_dataset
from retrotune.report.tables.render import to_json_values
from retrotune.report.tables.table import Table
from retrotune.runtime.files import read_json
from retrotune.study.stages import WriteReportParams

COST = ("cost", "cost_totals")
DIAGNOSIS = ("diagnosis",)
BESIDE = ("comparison_long",)
"""Tables that the page does not show: another one has their numbers."""


def content(params: WriteReportParams, measures: Measures, tables: Path) -> dict[str, Any]:
    """What main.js puts on the page; `tables` is the folder of the study's tables."""
    results = measures.results
    claims = _read(tables / "claims.json", "claims") if "claims" in params.tables else []
    findings = _read(tables / "diagnosis.json", "findings")
    shown = [name for name in params.tables if name not in (*COST, *DIAGNOSIS, *BESIDE, "claims")]
    return {
        "title": f"{params.study}: retrieval and fine-tuning",
        "summary": _summary(measures),
        "claims": claims,
        # what is not testable stands beside its claim
        "claim_notes": claim_notes([claim for claim in claims if not claim["problem"]]),
        "tables": [_table(tables, name, measures) for name in shown] + _unfinished(results),
        "figures": params.figures,
        "findings": findings,
        "diagnosis": [_table(tables, name, measures) for name in DIAGNOSIS],
        "cost": [_table(tables, name, measures) for name in COST if name in params.tables],
        "provenance_notes": provenance_notes(results),
        "provenance": [_plain(table) for table in (_software(results), _models(results), _data(results)) if table.rows],
    }


def _read(path: Path, key: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_json(path)[key]
    return found


def _summary(measures: Measures) -> str:
    counts = Counter(result.status for result in measures.results)
    cells = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    questions = sum(measures.num_questions(name) or 0 for name in measures.datasets)
    return (
        f"{len(measures.results)} cells ({cells}): {len(unique(r.original for r in measures.results))} models, "
        f"{len(unique(r.method for r in measures.results))} methods, {len(measures.datasets)} datasets with "
        f"{questions:,} test questions."
    )


def _table(tables: Path, name: str, measures: Measures) -> dict[str, Any]:
    """A table, and for each of its places the cell whose answers are behind its number."""
    table = read_json(tables / f"{name}.table.json")
    return {"table": table, "cells": _cells(table, measures) if name == "comparison" else None}


def _cells(table: Mapping[str, Any], measures: Measures) -> list[list[str | None]]:
    """Of the comparison: the first run that has a score."""
    labels = [None] * table["num_labels"]
    rows = []
    for members in in_rows(measures.results):
        own = by_dataset(members)
        names = [
            next((run.name for run in own.get(dataset, ()) if run.primary is not None), None)
            for dataset in measures.datasets
        ]
        rows.append([*labels, *names, *[None] * (len(table["columns"]) - len(labels) - len(names))])
    return rows


def _plain(table: Table) -> dict[str, Any]:
    return {"table": to_json_values(table), "cells": None}


def _unfinished(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Cells without a score, and why."""
    rows: list[list[Any]] = [
        [result.name, result.status, result.problem or ""] for result in results if result.primary is None
    ]
    return [_plain(Table("Cells without a score", ["Cell", "Status", "Why"], rows, 3, []))] if rows else []


def _software(results: Sequence[Result]) -> Table:
    """By what cells were made, those of one program together."""
    counts: Counter[tuple[str, ...]] = Counter()
    for result in results:
        for stage, software in result.provenance.get("software", {}).items():
            if software is None:
                continue
            git = software["git"]
            commit = "" if git is None else git["commit"][:12] + (", changed" if git["dirty"] else "")
            packages = (software[name] or "–" for name in ("retrotune", "torch", "transformers", "peft", "faiss"))
            version = result.provenance["stages"].get(stage)
            counts[stage, str(version), commit, *packages, software["python"], software["platform"]] += 1
    columns = ["Stage", "Version", "Commit", "retrotune", "torch", "transformers", "peft", "faiss", "Python", "Machine"]
    rows: list[list[Any]] = [[*key, count] for key, count in counts.items()]
    return Table("Programs that made the results", [*columns, "Cells"], rows, len(columns), ["d"])


def _models(results: Sequence[Result]) -> Table:
    """Base models: parameters, digest of weights, and how they depart from NVIDIA's."""
    models = {result.model: result for result in in_order(results) if result.fingerprint or result.num_parameters}
    rows: list[list[Any]] = [
        [
            name,
            result.arm,
            result.size,
            result.replicate_of or "",
            (result.fingerprint or "")[:12],
            "; ".join(result.departures),
            result.num_parameters,
        ]
        for name, result in models.items()
    ]
    columns = ["Model", "Family", "Size", "Replicate of", "Weights", "Departures", "Parameters"]
    return Table("Base models", columns, rows, 6, [",d"])


def _data(results: Sequence[Result]) -> Table:
    """Digests of the files that cells rest on, models left out."""
    counts: Counter[tuple[str, str, str, str]] = Counter()
    for result in results:
        for name, digest in result.provenance.get("inputs", {}).items():
            if "model" not in name:
                retrieval = result.retrieval if "neighbors" in name else ""
                counts[result.dataset, name, retrieval, digest[:12]] += 1
    rows: list[list[Any]] = [[*key, count] for key, count in counts.items()]
    return Table("Data that results rest on", ["Dataset", "File", "Retrieval", "sha256", "Cells"], rows, 4, ["d"])
