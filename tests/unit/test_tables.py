"""Tables over a study made by hand: rows of several runs, marks, gaps, and what their notes say."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from report_cases import OPEN, drawn, exact, measures, params_of, result, study, write_study
from scipy import stats

from retrotune.report.gathering.collect import Result
from retrotune.report.tables.grid import comparison_table, long_table, retrieval_table
from retrotune.report.tables.instruct import instruct_table
from retrotune.report.tables.making import make_tables
from retrotune.report.tables.measures import Measures
from retrotune.report.tables.parameters import parameters_table
from retrotune.report.tables.render import to_csv, to_parquet
from retrotune.report.tables.table import YES_NO, Measured, Table, Value
from retrotune.study.cells import Cell
from retrotune.study.paths import TABLE_FORMS


def row_of(table: Table, *labels: str) -> list[Value]:
    return next(row for row in table.rows if set(labels) <= set(row[: table.num_labels]))


# values -----------------------------------------------------------------------------------------------------------
def test_the_comparison_has_the_papers_shape(tmp_path: Path) -> None:
    results, scores = study()
    table = comparison_table(measures(tmp_path, results, scores), 100)
    assert table.columns == ["Family", "Size", "Method", "Retrieval", "nq (EM)", "qmsum (geo-ROUGE)", "Average"]
    labels = [row[:4] for row in table.rows]
    assert labels[:3] == [
        ["GPT", "a (1.00M)", "zeroshot", "bm25"],
        ["GPT", "a (1.00M)", "lora", "bm25"],
        ["GPT", "b (4.00M)", "zeroshot", "bm25"],
    ]
    assert len({tuple(label) for label in labels}) == len(labels) == 11
    failed, missing = row_of(table, "GPT", "b (4.00M)", "lora"), table.rows[7]
    assert failed[4] == "failed"
    assert missing[5] is None
    assert failed[-1] is missing[-1] is None, "no average over the rest"
    assert table.footers == [["Questions (documents)", "", "", "", "24", "24 (8)", "48"]]


def test_a_single_run_has_the_interval_of_its_cell(tmp_path: Path) -> None:
    """Half width by hand: documents of equal size, so that the jackknife is the t interval over their means."""
    scores = drawn("one", "qmsum", 0.5)
    scores = dict.fromkeys(scores, scores["rouge1"])
    cell = result("gpt-a", "lora", "qmsum")
    table = comparison_table(measures(tmp_path, [cell], {cell.cell: scores}), 100)
    means = np.array(scores["rouge1"]).reshape(8, 3).mean(axis=1)
    half = stats.t.ppf(0.975, 7) * means.std(ddof=1) / np.sqrt(8)
    (value,) = table.rows[0][3:]
    assert value == pytest.approx((means.mean(), means.mean() - half, means.mean() + half), abs=1e-4)
    assert table.columns[-1] == "qmsum (geo-ROUGE)", "there is no average over one dataset"


def test_runs_of_a_row_are_averaged_and_their_spread_counts(tmp_path: Path) -> None:
    """Three replicates and two seeds that differ much: no mean of bounds is as wide as the interval."""
    models = [("gpt-a", None), ("gpt-a-one", "gpt-a"), ("gpt-a-two", "gpt-a")]
    replicates = [result(name, "lora", "nq", replicate_of=original) for name, original in models]
    seeds = [result("gpt-b", "lora", "nq", "bm25", seed) for seed in (0, 1)]
    scores = {
        cell.cell: exact(*range(count)) for cell, count in zip([*replicates, *seeds], (6, 9, 12, 8, 10), strict=True)
    }
    found = measures(tmp_path, [*replicates, *seeds], scores)
    table = comparison_table(found, 100)
    assert [row[:3] for row in table.rows] == [["GPT", "a (1.00M)", "lora"], ["GPT", "b (4.00M)", "lora"]]
    for row, cells in zip(table.rows, (replicates, seeds), strict=True):
        value = row[3]
        assert isinstance(value, Measured)
        alone = [found.score([cell]) for cell in cells]
        values = [one.estimate.value for one in alone if one is not None]
        assert value.value == pytest.approx(np.mean(values))
        bounds = [one.estimate.interval() for one in alone if one is not None]
        of_seeds = stats.t.ppf(0.975, len(cells) - 1) * np.std(values, ddof=1) / np.sqrt(len(cells))
        assert value.low is not None
        assert value.value - value.low >= min(value.value, of_seeds) - 1e-9
        assert value.low < np.mean([low for low, _ in bounds])  # type: ignore[misc]
    (note,) = [note for note in table.notes if "runs" in note]
    assert note == "Means over up to 3 runs of a row: 2 seeds (0, 1) and 2 replicates of base models."
    assert "trainings where a row has several" in table.notes[0]


def test_a_single_run_says_that_seed_variance_is_missing(tmp_path: Path) -> None:
    results, scores = study()
    single = [item for item in results if item.seed == 0 and item.replicate_of is None]
    notes = comparison_table(measures(tmp_path, single, scores), 100).notes
    assert any("single run: seed variance is missing" in note for note in notes)
    assert "trainings" not in notes[0]
    notes = comparison_table(measures(tmp_path, results, scores), 100).notes
    assert any("Rows of a single run lack seed variance" in note for note in notes)


def test_what_an_interval_covers_is_said(tmp_path: Path) -> None:
    for datasets, said in (
        (["nq"], "Intervals: 95 %, over questions."),
        (["qmsum"], "Intervals: 95 %, over documents."),
        (["nq", "qmsum"], "Intervals: 95 %, over documents (qmsum) and questions (nq). That of the average holds for"),
    ):
        table = comparison_table(measures(tmp_path, [result("gpt-a", "lora", name) for name in datasets]), 100)
        assert said in table.notes[0]
    unscored = comparison_table(measures(tmp_path, [result("gpt-a", "lora", "nq", status="missing")]), 100)
    assert "Intervals" not in unscored.notes[0]
    assert unscored.footers[0][-1] == "–"


# long form --------------------------------------------------------------------------------------------------------
def test_the_long_form_holds_the_numbers_of_the_comparison(tmp_path: Path) -> None:
    results, scores = study()
    found = measures(tmp_path, results, scores)
    comparison = comparison_table(found, 100)
    long = long_table(found, comparison)
    assert len(long.rows) == 3 * len(comparison.rows)
    columns = {name: place for place, name in enumerate(long.columns)}
    for place, line in enumerate(long.rows):
        value = comparison.rows[place // 3][4 + place % 3]
        numbers = [line[columns[name]] for name in ("value", "low", "high")]
        assert numbers == (list(value) if isinstance(value, Measured) else [None] * 3)
    states = [(line[2], line[3], line[5], line[7], line[9]) for line in long.rows]
    assert ("gpt-b", "lora", "nq", "failed", 0) in states
    assert ("retro-b", "zeroshot", "qmsum", "missing", 0) in states
    assert ("gpt-b", "zeroshot", "Average", "done", 1) in states
    assert ("gpt-a", "lora", "nq", "done", 2) in states
    assert [state[3] for state in states if state[:3] == ("gpt-b", "lora", "Average")] == ["missing"]


def test_a_row_of_which_a_run_is_missing_is_partial(tmp_path: Path) -> None:
    cells = [result("gpt-a", "lora", "nq", "bm25", seed, status="done" if seed else "failed") for seed in (0, 1, 2)]
    found = measures(tmp_path, cells)
    table = comparison_table(found, 100)
    assert long_table(found, table).rows[0][7:11] == ["partial", 1_000_000, 2, 24]
    assert any("gpt-a/lora/nq/bm25/seed0 (failed)" in note for note in table.notes)


def test_parquet_has_typed_columns_and_unrounded_values(tmp_path: Path) -> None:
    results, scores = study()
    collected = write_study(tmp_path, results, scores)
    make_tables(params_of(results, published=[]), *collected, tmp_path / "tables")
    long = pq.read_table(tmp_path / "tables/comparison_long.parquet")
    types = {field.name: str(field.type) for field in long.schema}
    assert types["parameters"] == types["runs"] == types["n"] == types["documents"] == "int64"
    assert types["value"] == types["low"] == types["high"] == "double"
    assert types["best"] == types["not_worse_than_best"] == "bool"
    assert {types[name] for name in ("family", "size", "model", "status", "dataset")} == {"string"}
    wide = pq.read_table(tmp_path / "tables/comparison.parquet").to_pydict()
    found = Measures.load(*collected)
    first = found.score(
        [item for item in results if (item.original, item.method, item.dataset) == ("gpt-a", "lora", "nq")]
    )
    assert first is not None
    assert wide["nq (EM)"][1] == first.estimate.value
    assert (wide["nq (EM) low"][1], wide["nq (EM) high"][1]) == first.estimate.interval()
    assert wide["nq (EM)"][4] is None, "the word `failed` is no number"
    written = {path.name for path in (tmp_path / "tables").iterdir()}
    names = ["comparison", "comparison_long", "parameters", "cost", "cost_totals", "retrievals", "instruct"]
    assert written == {"cost_cells.csv", *(f"{name}.{suffix}" for name in names for suffix in TABLE_FORMS)}


def test_an_empty_table_keeps_its_types() -> None:
    table = Table("t", ["a", "b", "c", "d"], [], 1, ["d", ".1f", YES_NO], intervals={2})
    types = [str(field.type) for field in to_parquet(table).schema]
    assert types == ["string", "int64", "double", "double", "double", "bool"]


def test_csv_has_bounds_of_their_own() -> None:
    rows: list[list[Value]] = [["x", Measured(12.34, 10.0, 14.68), 3], ["y", "failed", None], ["z", Measured(1.0), 4]]
    table = Table("t", ["name", "score", "n"], rows, 1, [".1f", ",d"], intervals={1}, best={(0, 1)})
    assert to_csv(table).splitlines() == [
        "name,score,score low,score high,n",
        "x,12.3,10.0,14.7,3",
        "y,failed,-,-,-",
        "z,1.0,-,-,4",
    ]


@pytest.mark.parametrize(
    ("value", "spec", "printed"),
    [
        (Measured(36.7, 28.9, 44.5), ".1f", "±7.8"),
        (Measured(0.7, 0.0, 2.1), ".1f", "[0.0, 2.1]"),
        (Measured(50.0, 0.0, 100.0), ".1f", "[0.0, 100.0]"),
        (Measured(99.0, 96.0, 100.0), ".1f", "[96.0, 100.0]"),
        (Measured(3.14, -2.0, 8.28), "+.1f", "±5.1"),
        (Measured(-90.0, -100.0, -75.0), "+.1f", "[-100.0, -75.0]"),
        (Measured(36.7), ".1f", ""),
        (36.7, ".1f", ""),
        (None, ".1f", ""),
    ],
)
def test_an_interval_is_short_where_it_is_symmetric(value: Value, spec: str, printed: str) -> None:
    assert Table("t", ["a", "b"], [["x", value]], 1, [spec]).interval_of(0, 1) == printed


# other tables -----------------------------------------------------------------------------------------------------
def test_retrievals_side_by_side(tmp_path: Path) -> None:
    results, scores = study()
    found = measures(tmp_path, results, scores)
    table = retrieval_table(found)
    assert table.columns[4:] == ["bm25", "none"]
    assert [row[:4] for row in table.rows] == [
        ["GPT", "b (4.00M)", "zeroshot", "nq (EM)"],
        ["GPT", "b (4.00M)", "zeroshot", "qmsum (geo-ROUGE)"],
    ]
    assert table.rows[0][5] == Measured(0.0, 0.0, pytest.approx(100 * (1 - 0.025 ** (1 / 24))))


def test_instruct_stands_beside_its_base(tmp_path: Path) -> None:
    """Paired differences: questions of the tuned model are 9 or 11 points better, by turns of documents."""
    base, tuned = result("gpt-a", "lora", "qmsum"), result("gpt-a-tuned", "lora", "qmsum", instruct=True)
    scores = {"rouge1": [20.0 + n for n in range(24)]}
    scores |= dict.fromkeys(("rouge2", "rougeL"), scores["rouge1"])
    better = {part: [x + 9 + 2 * (n // 3 % 2) for n, x in enumerate(values)] for part, values in scores.items()}
    others = [result("gpt-b", "lora", "qmsum", instruct=True), result("retro-a", "lora", "qmsum")]
    found = measures(tmp_path, [base, tuned, *others], {base.cell: scores, tuned.cell: better})
    (row,) = instruct_table(found).rows
    assert row[:7] == ["GPT", "a", "gpt-a", "gpt-a-tuned", "lora", "bm25", "qmsum (geo-ROUGE)"]
    assert [value.value for value in row[7:] if isinstance(value, Measured)] == pytest.approx(
        [31.5, 41.5, 10.0], abs=1e-4
    )
    difference = row[9]
    assert isinstance(difference, Measured)
    assert isinstance(row[7], Measured)
    assert difference.low is not None
    assert row[7].low is not None
    # eight differences of 9 and 11: standard deviation sqrt(8 / 7)
    assert 10.0 - difference.low == pytest.approx(stats.t.ppf(0.975, 7) * np.sqrt(8 / 7) / np.sqrt(8), abs=1e-3)
    assert row[7].value - row[7].low > 5, "each score alone is uncertain"


def test_instruct_prefers_the_base_with_the_same_gate(tmp_path: Path) -> None:
    def model(name: str, instruct: bool, gate: float | None) -> Result:
        return result(name, "zeroshot", "nq", instruct=instruct, retrieval_gate=gate)

    open_base, tuned = model("retro-a", False, None), model("retro-a-tuned", True, 0.0)
    (row,) = instruct_table(measures(tmp_path, [open_base, tuned])).rows
    assert row[2:4] == ["retro-a", "retro-a-tuned (encoder off)"]
    off_base = model("retro-a-off", False, 0.0)
    (row,) = instruct_table(measures(tmp_path, [open_base, off_base, tuned])).rows
    assert row[2:4] == ["retro-a-off (encoder off)", "retro-a-tuned (encoder off)"]


def test_trained_parameters(tmp_path: Path) -> None:
    results, _ = study()
    table = parameters_table(results)
    assert table.columns == ["Family", "Size", "lora", "lora, %"]
    assert table.rows[0] == ["GPT", "a (1.00M)", 5000, pytest.approx(100 * 5000 / 1_005_000)]
    changed = [
        replace(item, train={**item.train, "num_trainable_params": 7})
        if (item.model, item.method, item.dataset) == ("gpt-b", "lora", "nq")
        else item
        for item in results
    ]
    table = parameters_table(changed)
    assert row_of(table, "b (4.00M)")[2:] == [None, None]
    assert "GPT b (4.00M) lora: 5,000, 7" in table.notes[-1].replace("7, 5,000", "5,000, 7")
    none = parameters_table([result("gpt-a", "zeroshot", "nq")])
    assert none.columns == ["Family", "Size"]


# labels and notes -------------------------------------------------------------------------------------------------
def test_models_of_one_family_and_size_are_told_apart(tmp_path: Path) -> None:
    one, other = result("gpt-a", "lora", "nq"), result("gpt-a-other", "lora", "nq")
    table = comparison_table(measures(tmp_path, [one, other]), 100)
    assert [row[2] for row in table.rows] == ["gpt-a", "gpt-a-other"]
    assert table.columns[2] == "Model"
    replicate = replace(other, replicate_of="gpt-a")
    assert "Model" not in comparison_table(measures(tmp_path, [one, replicate]), 100).columns
    instruct = comparison_table(measures(tmp_path, [one, replace(other, instruct=True)]), 100)
    assert "Model" not in instruct.columns
    assert [row[0] for row in instruct.rows] == ["GPT", "GPT instruct"]


def test_gates_are_told_apart() -> None:
    gates = {None: "", 1.0: "", 0.0: ", encoder off", 0.5: ", gate 0.5"}
    for instruct, family in ((False, "RETRO"), (True, "RETRO instruct")):
        arms = [result("retro-a", instruct=instruct, retrieval_gate=gate).arm for gate in gates]
        assert arms == [family + marked for marked in gates.values()]


KEYS, TIED, LAYERS = "keys are mixed", "embeddings are tied", "cross-attention in layers [1, 3] (0-based)"


@pytest.mark.parametrize(
    ("departures", "stated"),
    [
        ({}, None),
        ({"gpt": [KEYS, TIED], "retro": [KEYS, TIED]}, f"{KEYS}; {TIED}."),
        ({"gpt": [KEYS], "retro": [LAYERS, KEYS, TIED]}, f"{KEYS}; RETRO only: {LAYERS}; {TIED}."),
        ({"gpt": [KEYS], "retro": [TIED]}, f"GPT only: {KEYS}; RETRO only: {TIED}."),
        ({"gpt": [KEYS]}, f"GPT only: {KEYS}."),
    ],
)
def test_departures_stand_below_the_comparison(
    tmp_path: Path, departures: dict[str, list[str]], stated: str | None
) -> None:
    results = [result(model, departures=departures.get(model.split("-")[0], [])) for model in ("gpt-a", "retro-a")]
    notes = [note for note in comparison_table(measures(tmp_path, results), 100).notes if "architecture" in note]
    assert notes == ([f"Models depart from NVIDIA's architecture: {stated}"] if stated else [])


def test_departures_of_models_without_a_score_are_left_out(tmp_path: Path) -> None:
    gpt, retro = result("gpt-a", status="missing", departures=[KEYS]), result("retro-a", departures=[LAYERS])
    notes = comparison_table(measures(tmp_path, [gpt, retro]), 100).notes
    assert any(note.endswith(f"architecture: {LAYERS}.") for note in notes)


def test_a_model_that_was_made_anew_between_its_cells_is_named(tmp_path: Path) -> None:
    def said(**changes: Any) -> list[str]:
        results = [
            result("gpt-a", "lora", "nq", fingerprint="first"),
            result("gpt-a", "lora", "qmsum", **changes),
            result("retro-a", "lora", "nq", fingerprint="its own"),
        ]
        notes = comparison_table(measures(tmp_path, results), 100).notes
        return [note for note in notes if "cannot be compared" in note]

    assert said(fingerprint="first") == []
    assert said(fingerprint="second") == [
        "Cells of gpt-a rest on 2 different base models (first, second) and cannot be compared: run snakemake, which "
        "makes the older ones again."
    ]
    assert said(fingerprint="second", status="missing") == [], "cells without a score rest on nothing"
    assert said(fingerprint=None) == [], "a model whose weights nobody knows"


def test_gaps_are_listed_by_name_and_counted(tmp_path: Path) -> None:
    results = [result("gpt-a", "lora", "nq", "bm25", seed, status="failed", problem=f"why {seed}") for seed in range(5)]
    notes = comparison_table(measures(tmp_path, [*results, result()]), 100, max_listed=2).notes
    assert notes[-2].startswith("Without a score, 5 of 6 cells: gpt-a/lora/nq/bm25/seed0 (failed), ")
    assert notes[-2].endswith("seed1 (failed) and 3 more.")
    assert notes[-1].endswith("gpt-a/lora/nq/bm25/seed0: why 0; gpt-a/lora/nq/bm25/seed1: why 1; and 3 more.")


def test_a_study_without_scores_says_so(tmp_path: Path) -> None:
    cells = itertools.product(("gpt-a", "retro-a"), ("nq", "qmsum"))
    results = [result(model, "lora", dataset, status="missing") for model, dataset in cells]
    collected = write_study(tmp_path, results)
    make_tables(params_of(results, published=[]), *collected, tmp_path / "tables")
    found = Measures.load(*collected)
    table = comparison_table(found, 100)
    assert all(value is None for row in table.rows for value in row[3:])
    assert table.best == set()
    assert [row[7] for row in long_table(found, table).rows] == 6 * ["missing"]


def test_questions_without_documents_are_clusters_of_their_own(tmp_path: Path) -> None:
    found = measures(tmp_path, [result("gpt-a", "lora", "nq"), result("gpt-a", "lora", "qmsum")])
    assert found.sheets["nq"].stratum.num_clusters == len(OPEN)
    assert (found.num_documents("nq"), found.num_documents("qmsum")) == (None, 8)
    assert Cell("gpt-a", "lora", "nq", "bm25", 0) in found.sheets["nq"].place_of
