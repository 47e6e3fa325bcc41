"""What cells cost, as training and prediction measured it, and what each point over zero-shot took."""

import csv
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from retrotune.report.gathering.collect import KEPT, Result
from retrotune.report.gathering.rows import grouped, in_order, row_labels
from retrotune.report.tables.measures import Measures, measured, minus
from retrotune.report.tables.table import Table, Value
from retrotune.runtime.files import atomic_write
from retrotune.scoring.contrasts import Weights, outcome
from retrotune.study.cells import Cell

TRAIN = (
    "num_trainable_params",
    "num_total_params",
    "steps",
    "tokens",
    "seconds",
    "peak_memory_bytes",
    "adapter_bytes",
    "energy_joules",
    "num_devices",
    "device",
)
PREDICT = (
    "seconds",
    "num_questions",
    "prompt_tokens",
    "generated_tokens",
    "peak_memory_bytes",
    "device",
    "energy_joules",
    "num_devices",
)
COLUMNS = {
    "Trained params": ",d",
    "% of all": ".3g",
    "Training s": ".1f",
    "Tokens/s": ",.0f",
    "Peak GiB": ".2f",
    "Weights MB": ".2f",
    "Prediction s": ".1f",
    "Energy Wh": ",.2f",
    "Gain": "+.1f",
    "Device-s per point": ",.1f",
}
"""Number columns of `cost_table` with their formats."""
Place = tuple[str, str, str]
"""A base model, a retrieval, a dataset: where a method is held against zero-shot."""


def write_cell_costs(results: Sequence[Result], out: str | Path) -> None:
    """One row per cell with everything measured, empty where nothing was (zeroshot is not trained)."""
    names = ("model", "method", "dataset", "retrieval", "seed", "status")
    with atomic_write(out) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        measured_names = [*(f"train_{key}" for key in TRAIN), *(f"predict_{key}" for key in PREDICT)]
        writer.writerow([*names, *measured_names, *(f"{stage}_disk_bytes" for stage in KEPT)])
        for result in results:
            train = [result.train.get(key) for key in TRAIN]
            predict = [result.predict.get(key) for key in PREDICT]
            disk = [result.disk.get(stage) for stage in KEPT]
            writer.writerow([*(getattr(result, name) for name in names), *train, *predict, *disk])


def cost_table(measures: Measures) -> Table:
    """Cost of a cell by model and method: means over datasets, retrievals and seeds; of peak memory the highest.

    The last columns are what a method gains over zero-shot of the same models and retrievals, and what a point of that
    took. The column of energy is there where some cell's was measured.
    """
    results = measures.results
    labels, label_of = row_labels(results)
    zeroshot = _by_place([result for result in results if result.kind == "zeroshot"])
    rows: list[list[Value]] = [
        [*key, *_costs(members), *_gain(measures, members, zeroshot)]
        for key, members in grouped(in_order(results), label_of).items()
    ]
    energy = len(labels) + list(COLUMNS).index("Energy Wh")
    shown = [
        place for place in range(len(labels) + len(COLUMNS)) if place != energy or any(row[energy] for row in rows)
    ]
    columns = [*labels, *COLUMNS]
    return Table(
        title="Cost of a cell by model and method",
        columns=[columns[place] for place in shown],
        rows=[[row[place] for place in shown] for row in rows],
        num_labels=len(labels),
        formats=[COLUMNS[columns[place]] for place in shown[len(labels) :]],
        notes=[
            "Means over datasets, retrievals and seeds. Peak memory is the highest of training (of prediction for "
            "zeroshot): of the whole process on a CPU, of the device's allocations on a GPU.",
            "Gain: points over zero-shot of the same model and retrieval, the mean over datasets where both have a "
            "score. Device-s per point: seconds of training and prediction times devices, of one run on all these "
            "datasets, by the gain; a dash where that is not above 0, or devices were not recorded.",
        ],
        rules={i for i, row in enumerate(rows) if i and row[:2] != rows[i - 1][:2]},
        intervals={shown.index(len(labels) + list(COLUMNS).index("Gain"))},
    )


def device_seconds(result: Result) -> float | None:
    """Seconds of a cell's training and prediction, each times its devices; None if some of that was not recorded."""
    total = 0.0
    for block in (result.train, result.predict) if result.trained else (result.predict,):
        seconds, devices = block.get("seconds"), block.get("num_devices")
        if seconds is None or devices is None:
            return None
        total += seconds * devices
    return total


def joules(result: Result) -> float | None:
    """Energy of a cell's training and prediction; None if some of that was not measured."""
    blocks = (result.train, result.predict) if result.trained else (result.predict,)
    parts = [block.get("energy_joules") for block in blocks]
    return None if None in parts else sum(part for part in parts if part is not None)


def _costs(members: Sequence[Result]) -> list[Value]:
    """The columns of `cost_table` up to the energy, None where no member has the measurement."""

    def measured(block: str, key: str) -> list[float]:
        return [value for member in members if (value := getattr(member, block).get(key)) is not None]

    def mean(block: str, key: str, unit: float = 1) -> float | None:
        values = measured(block, key)
        return statistics.fmean(values) / unit if values else None

    trained, total = mean("train", "num_trainable_params"), mean("train", "num_total_params")
    tokens, seconds = sum(measured("train", "tokens")), sum(measured("train", "seconds"))
    peaks = measured("train", "peak_memory_bytes") or measured("predict", "peak_memory_bytes")
    energy = [taken for member in members if (taken := joules(member)) is not None]
    return [
        None if trained is None else round(trained),
        100 * trained / total if trained is not None and total else None,
        mean("train", "seconds"),
        tokens / seconds if tokens and seconds else None,
        max(peaks) / 2**30 if peaks else None,
        mean("train", "adapter_bytes", 1e6),
        mean("predict", "seconds"),
        statistics.fmean(energy) / 3600 if energy else None,
    ]


def _by_place(results: Sequence[Result]) -> dict[Place, list[Result]]:
    """Results with a score."""
    done = (result for result in results if result.primary is not None)
    return grouped(done, lambda result: (result.original, result.retrieval, result.dataset))


def _gain(
    measures: Measures, members: Sequence[Result], zeroshot: Mapping[Place, Sequence[Result]]
) -> tuple[Value, Value]:
    """Points over zero-shot with their interval, and device seconds for each of them."""
    own = _by_place([member for member in members if member.kind != "zeroshot"])
    both = [place for place in own if place in zeroshot]
    if not both:
        return None, None
    ours, theirs = (_mean([side[place] for place in both]) for side in (own, zeroshot))
    gain = measured(outcome(measures.sheets, [minus(ours, theirs)], measures.runs))
    costs = [[device_seconds(run) for run in own[place]] for place in both]
    known = [[seconds for seconds in runs if seconds is not None] for runs in costs]
    if gain is None or round(gain.value, 1) <= 0 or known != costs:
        return gain, None
    return gain, sum(map(statistics.fmean, known)) / gain.value


def _mean(groups: Sequence[Sequence[Result]]) -> Weights:
    """Mean over groups of the mean over each one's cells."""
    weights: dict[Cell, float] = {}
    for group in groups:
        weights.update((result.cell, 1 / len(groups) / len(group)) for result in group)
    return weights
