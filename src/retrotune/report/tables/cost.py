"""What cells cost: trained parameters, time, memory and bytes on disk, as training and prediction measured them."""

import csv
import statistics
from collections.abc import Sequence
from pathlib import Path

from retrotune.report.gathering.collect import Result
from retrotune.report.gathering.rows import grouped, in_order, row_labels
from retrotune.report.tables.table import Table, Value
from retrotune.runtime.files import atomic_write

TRAIN = (
    "num_trainable_params",
    "num_total_params",
    "steps",
    "tokens",
    "seconds",
    "peak_memory_bytes",
    "adapter_bytes",
)
PREDICT = ("seconds", "num_questions", "prompt_tokens", "generated_tokens", "peak_memory_bytes", "device")


def write_cell_costs(results: Sequence[Result], out: str | Path) -> None:
    """One row per cell with everything measured, empty where nothing was (zeroshot is not trained)."""
    names = ("model", "method", "dataset", "retrieval", "seed", "status")
    with atomic_write(out) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*names, *(f"train_{key}" for key in TRAIN), *(f"predict_{key}" for key in PREDICT)])
        for result in results:
            train = [result.train.get(key) for key in TRAIN]
            predict = [result.predict.get(key) for key in PREDICT]
            writer.writerow([*(getattr(result, name) for name in names), *train, *predict])


def cost_table(results: Sequence[Result]) -> Table:
    """Cost of a cell by model and method: means over datasets, retrievals and seeds; of peak memory the highest."""
    labels, label_of = row_labels(results)
    rows: list[list[Value]] = [
        [*key, *_costs(members)] for key, members in grouped(in_order(results), label_of).items()
    ]
    return Table(
        title="Cost of a cell by model and method",
        columns=[
            *labels,
            "Trained params",
            "% of all",
            "Training s",
            "Tokens/s",
            "Peak GiB",
            "Weights MB",
            "Prediction s",
        ],
        rows=rows,
        num_labels=len(labels),
        formats=[",d", ".3g", ".1f", ",.0f", ".2f", ".2f", ".1f"],
        notes=[
            "Means over datasets, retrievals and seeds. Peak memory is the highest of training (of prediction for "
            "zeroshot): of the whole process on a CPU, of the device's allocations on a GPU."
        ],
        rules={i for i, row in enumerate(rows) if i and row[:2] != rows[i - 1][:2]},
    )


def _costs(members: Sequence[Result]) -> list[Value]:
    """The number columns of `cost_table`, None where no member has the measurement."""

    def measured(block: str, key: str) -> list[float]:
        return [value for member in members if (value := getattr(member, block).get(key)) is not None]

    def mean(block: str, key: str, unit: float = 1) -> float | None:
        values = measured(block, key)
        return statistics.fmean(values) / unit if values else None

    trained, total = mean("train", "num_trainable_params"), mean("train", "num_total_params")
    tokens, seconds = sum(measured("train", "tokens")), sum(measured("train", "seconds"))
    peaks = measured("train", "peak_memory_bytes") or measured("predict", "peak_memory_bytes")
    return [
        None if trained is None else round(trained),
        100 * trained / total if trained is not None and total else None,
        mean("train", "seconds"),
        tokens / seconds if seconds else None,
        max(peaks) / 2**30 if peaks else None,
        mean("train", "adapter_bytes", 1e6),
        mean("predict", "seconds"),
    ]
