"""The comparison table in the paper's shape, and the table that holds retrievals against each other."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from retrotune.data.scores import title_of
from retrotune.report.collect import FAMILIES, Result, load_results
from retrotune.report.cost import cost_table, write_cell_costs
from retrotune.report.render import Table, Value, to_text, write_table
from retrotune.report.rows import grouped, in_order, mean_score, row_labels, unique

LISTED_IN_TERMINAL = 12


def make_tables(results_json: str | Path, folder: str | Path) -> list[str]:
    """Write all tables of a study into `folder` as csv, md, tex and html; returns their names without suffix.

    `comparison` and `cost` always, `retrievals` if the study has several. `cost_cells.csv` has one row per cell.
    """
    results = load_results(results_json)
    tables = {"comparison": comparison_table(results), "cost": cost_table(results)}
    retrievals = retrieval_table(results)
    if retrievals is not None:
        tables["retrievals"] = retrievals
    for name, table in tables.items():
        write_table(table, folder, name)
    write_cell_costs(results, Path(folder) / "cost_cells.csv")
    return list(tables)


def format_table(results_json: str | Path) -> str:
    """The comparison table as plain text for the terminal."""
    return to_text(comparison_table(load_results(results_json), LISTED_IN_TERMINAL))


def comparison_table(results: Sequence[Result], max_listed: int | None = None) -> Table:
    """Rows family x size x method (x retrieval if several), columns the datasets' primary metrics and their average.

    Seeds are averaged. The average needs every dataset: a row with a gap has none. Best of each column in bold.
    Cells without a score are listed below the table, at most `max_listed` of them by name.
    """
    datasets = unique(result.dataset for result in results)
    retrievals = unique(result.retrieval for result in results)
    labels, label_of = row_labels(results)
    if len(retrievals) > 1:
        labels = [*labels, "Retrieval"]
    shown = len(retrievals) > 1
    groups = grouped(in_order(results), lambda r: (*label_of(r), r.retrieval) if shown else label_of(r))
    rows: list[list[Value]] = []
    rules = set()
    for number, (key, members) in enumerate(groups.items()):
        if number and key[:2] != tuple(rows[-1][:2]):
            rules.add(number)
        of_datasets = [[member for member in members if member.dataset == dataset] for dataset in datasets]
        values = [mean_score(cells) for cells in of_datasets]
        known = [value for value in values if value is not None]
        average = statistics.fmean(known) if len(known) == len(datasets) else None
        rows.append([*key, *map(_or_failed, values, of_datasets), average])
    metric_of = {result.dataset: title_of(result.metric) for result in results}
    table = Table(
        title="Scores by model and method",
        columns=[*labels, *(f"{dataset} ({metric_of[dataset]})" for dataset in datasets), "Average"],
        rows=rows,
        num_labels=len(labels),
        formats=[".1f"] * (len(datasets) + 1),
        notes=_notes(results, max_listed),
        rules=rules,
    )
    table.mark_best()
    return table


def _or_failed(value: float | None, cells: Sequence[Result]) -> Value:
    """A mean over cells, or the word where there is none because one of them failed."""
    return "failed" if value is None and any(cell.status == "failed" for cell in cells) else value


def retrieval_table(results: Sequence[Result]) -> Table | None:
    """The same cell under each retrieval, side by side; None unless the study has several retrievals.

    Only cells with a value under at least two retrievals are rows: they are the ones that can be compared.
    """
    retrievals = unique(result.retrieval for result in results)
    if len(retrievals) < 2:
        return None
    labels, label_of = row_labels(results)
    groups = grouped(in_order(results), lambda r: (*label_of(r), f"{r.dataset} ({title_of(r.metric)})"))
    rows: list[list[Value]] = []
    for key, members in groups.items():
        values = [mean_score([member for member in members if member.retrieval == name]) for name in retrievals]
        if sum(value is not None for value in values) > 1:
            rows.append([*key, *values])
    return Table(
        title="The same cells under each retrieval",
        columns=[*labels, "Dataset", *retrievals],
        rows=rows,
        num_labels=len(labels) + 1,
        formats=[".1f"] * len(retrievals),
        notes=["Scores from 0 to 100; only cells with a score under at least two retrievals are shown."],
        rules={i for i, row in enumerate(rows) if i and row[: len(labels)] != rows[i - 1][: len(labels)]},
    )


def _notes(results: Sequence[Result], max_listed: int | None) -> list[str]:
    notes = ["Scores from 0 to 100, higher is better; the best of each column is in bold (starred in plain text)."]
    halves = [
        (entry["ci_high"] - entry["ci_low"]) / 2
        for result in results
        if (entry := result.primary) is not None and entry["ci_low"] is not None
    ]
    if halves:
        notes.append(
            f"Half width of the 95 % bootstrap interval over questions: median {statistics.median(halves):.1f}, "
            f"at most {max(halves):.1f} points; each interval is in metrics.csv."
        )
    sizes = {result.dataset: result.primary["n"] for result in results if result.primary is not None}
    if sizes:
        notes.append("Test questions: " + ", ".join(f"{dataset} {n}" for dataset, n in sizes.items()) + ".")
    seeds = unique(result.seed for result in results)
    if len(seeds) > 1:
        notes.append(f"Means over {len(seeds)} seeds ({', '.join(map(str, seeds))}).")
    notes += [*_several_bases(results), *_departures(results)]
    gaps = [result for result in results if result.primary is None]
    if gaps:
        listed = ", ".join(f"{result.name} ({result.status})" for result in gaps[:max_listed])
        listed += f" and {len(gaps) - max_listed} more" if max_listed and len(gaps) > max_listed else ""
        notes.append(f"Without a score, {len(gaps)} of {len(results)} cells: {listed}.")
    failed = [result for result in gaps if result.status == "failed"]
    if failed:
        listed = "; ".join(f"{result.name}: {result.problem}" for result in failed[:max_listed])
        listed += f"; and {len(failed) - max_listed} more" if max_listed and len(failed) > max_listed else ""
        notes.append(f"Failed, {len(failed)} of {len(results)} cells: {listed}.")
    return notes


def _several_bases(results: Sequence[Result]) -> list[str]:
    """A warning where cells of one model rest on different weights, as their base model was made anew in between."""
    bases = {
        model: unique(result.fingerprint for result in cells if result.primary is not None and result.fingerprint)
        for model, cells in grouped(results, lambda result: result.model).items()
    }
    return [
        f"Cells of {model} rest on {len(found)} different base models ({', '.join(found)}) and cannot be compared: run "
        "snakemake, which makes the older ones again."
        for model, found in bases.items()
        if len(found) > 1
    ]


def _departures(results: Sequence[Result]) -> list[str]:
    """A note on what scored models have that NVIDIA's have not, under a family's name where only one has it."""
    scored = [result for result in results if result.primary is not None]
    found = {
        family: unique(departure for result in members for departure in result.departures)
        for family, members in grouped(scored, lambda result: result.family).items()
    }
    everywhere = unique(text for texts in found.values() for text in texts if all(text in o for o in found.values()))
    parts = list(everywhere)
    for family, texts in found.items():
        own = [text for text in texts if text not in everywhere]
        if own:
            parts.append(f"{FAMILIES[family]} only: " + "; ".join(own))
    return [f"Models depart from NVIDIA's architecture: {'; '.join(parts)}."] if parts else []
