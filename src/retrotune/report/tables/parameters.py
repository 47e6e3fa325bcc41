"""How many parameters each method trains, by model."""

from collections.abc import Sequence

from retrotune.report.gathering.collect import Result
from retrotune.report.gathering.rows import grouped, in_order, row_labels, unique
from retrotune.report.tables.table import Table, Value


def parameters_table(results: Sequence[Result]) -> Table:
    """Rows family x size, two columns per method that trains something: parameters trained, and percent of all.

    As fine-tuning counted them (`train.json`); cells of one model and method train the same number.
    """
    methods = unique(result.method for result in results if result.trained)
    labels, label_of = row_labels(results)
    rows: list[list[Value]] = []
    differing = []
    for key, members in grouped(in_order(results), lambda r: label_of(r)[:-1]).items():
        row: list[Value] = [*key]
        for method in methods:
            counts = unique(
                (result.train["num_trainable_params"], result.train.get("num_total_params"))
                for result in members
                if result.method == method and result.train.get("num_trainable_params") is not None
            )
            trained, total = counts[0] if len(counts) == 1 else (None, None)
            row += [trained, 100 * trained / total if trained is not None and total else None]
            if len(counts) > 1:
                numbers = ", ".join(f"{count:,}" for count, _ in counts)
                differing.append(f"{' '.join(key)} {method}: {numbers}")
        rows.append(row)
    notes = ["Parameters that a method trains, and their share of all that the model then has."]
    if differing:
        notes.append(f"Cells differ, and no number is shown: {'; '.join(differing)}. Run snakemake again.")
    return Table(
        title="Trained parameters by model and method",
        columns=[*labels[:-1], *(name for method in methods for name in (method, f"{method}, %"))],
        rows=rows,
        num_labels=len(labels) - 1,
        formats=[",d", ".3g"] * len(methods),
        notes=notes,
        rules={i for i, row in enumerate(rows) if i and row[0] != rows[i - 1][0]},
    )
