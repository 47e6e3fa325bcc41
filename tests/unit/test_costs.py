"""What studies cost, over studies made by hand: means, gains over zero-shot, totals by stage and device, and disk."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from record_cases import metrics_record, predicting, question_scores, training, write_result
from report_cases import TRAINED, config_of, exact, measures, result, write_study

from retrotune.report.gathering.base_models import BaseModel, load_models, read_models
from retrotune.report.gathering.collect import Result, holds, read_cells, write_results
from retrotune.report.tables.cost import cost_table
from retrotune.report.tables.table import Measured, Value
from retrotune.report.tables.totals import format_totals, totals_table
from retrotune.runtime.files import read_json, write_json
from retrotune.study.paths import Paths

PREDICTED = {"seconds": 1.5, "num_devices": 1, "device": "cpu"}


def rows_of(folder: Path, cells: list[Result], scores: Any = None) -> dict[Any, dict[str, Value]]:
    """Cost of each method by column."""
    table = cost_table(measures(folder, cells, scores))
    return {row[2]: dict(zip(table.columns[3:], row[3:], strict=True)) for row in table.rows}


def test_costs_by_model_and_method(tmp_path: Path) -> None:
    train = {"num_trainable_params": 5000, "num_total_params": 1_000_000, "tokens": 9000, "seconds": 3.0}
    train |= {"peak_memory_bytes": 2**30, "adapter_bytes": 20_000, "steps": 40}
    cells = [
        result("gpt-a", "lora", "nq", train=train, predict={"seconds": 1.5, "peak_memory_bytes": 2**29}),
        result("gpt-a", "zeroshot", "nq", predict={"seconds": 1.5, "peak_memory_bytes": 2**29}),
    ]
    rows = rows_of(tmp_path, cells)
    assert list(rows["lora"].values())[:7] == [5000, 0.5, 3.0, 3000.0, 1.0, 0.02, 1.5]
    assert list(rows["zeroshot"].values())[:7] == [None, None, None, None, 0.5, None, 1.5]
    assert list(rows["lora"])[7:] == ["Gain", "Device-s per point"], "no energy was measured"


def test_energy_of_a_cell_is_that_of_its_training_and_its_prediction(tmp_path: Path) -> None:
    """Two runs of 1 Wh and 3 Wh; a third one whose prediction was not measured, and a zero-shot cell of 0.5 Wh."""
    runs = [(1800, 1800), (9000, 1800), (9000, None)]
    cells = [
        result("gpt-a", "lora", "nq", "bm25", seed,
               train=TRAINED | {"energy_joules": train}, predict=PREDICTED | {"energy_joules": predict})
        for seed, (train, predict) in enumerate(runs)
    ]  # fmt: skip
    cells.append(result("gpt-a", "zeroshot", "nq", predict=PREDICTED | {"energy_joules": 1800.0}))
    rows = rows_of(tmp_path, cells)
    assert [rows[method]["Energy Wh"] for method in ("lora", "zeroshot")] == [2.0, 0.5]


def gaining(*right: int, **changes: Any) -> tuple[list[Result], dict[Any, Any]]:
    """Zero-shot with 6 of 24 right, and LoRA, whose runs have so many right, each on nq with one retrieval."""
    cells = [result("gpt-a", "zeroshot", "nq", predict=PREDICTED)]
    cells += [result("gpt-a", "lora", "nq", "bm25", seed, predict=PREDICTED, **changes) for seed in range(len(right))]
    numbers = (6, *right)
    return cells, {cell.cell: exact(*range(n)) for cell, n in zip(cells, numbers, strict=True)}


def test_a_point_over_zero_shot_has_a_price(tmp_path: Path) -> None:
    """3 s on 2 devices and 1.5 s on one, for 12 - 6 of 24."""
    rows = rows_of(tmp_path, *gaining(12))
    gain = rows["lora"]["Gain"]
    assert isinstance(gain, Measured)
    assert gain.value == pytest.approx(25)
    assert gain.low is not None
    assert rows["lora"]["Device-s per point"] == pytest.approx(7.5 / 25)
    assert (rows["zeroshot"]["Gain"], rows["zeroshot"]["Device-s per point"]) == (None, None)
    runs = rows_of(tmp_path, *gaining(18, 6))["lora"]
    assert isinstance(runs["Gain"], Measured)
    assert (runs["Gain"].value, runs["Device-s per point"]) == pytest.approx((25, 7.5 / 25)), "two runs of one row"


@pytest.mark.parametrize(
    ("right", "changes", "expected"),
    [
        (6, {}, 0.0),
        (3, {}, -12.5),
        (12, {"train": {key: TRAINED[key] for key in TRAINED if key != "num_devices"}}, 25.0),
        (12, {"train": TRAINED | {"seconds": None}}, 25.0),
    ],
)
def test_what_gains_nothing_or_was_not_recorded_has_no_price(
    tmp_path: Path, right: int, changes: dict[str, Any], expected: float
) -> None:
    row = rows_of(tmp_path, *gaining(right, **changes))["lora"]
    assert isinstance(row["Gain"], Measured)
    assert row["Gain"].value == pytest.approx(expected)
    assert row["Device-s per point"] is None


def test_a_gain_is_over_what_both_have_a_score_on(tmp_path: Path) -> None:
    """nq with bm25: +25; nq with dense: no zero-shot; qmsum: zero-shot failed; of another model: not looked at."""
    cells, scores = gaining(12)
    more = [
        result("gpt-a", "lora", "nq", "dense"),
        result("gpt-a", "lora", "qmsum"),
        result("gpt-a", "zeroshot", "qmsum", status="failed"),
        result("gpt-b", "zeroshot", "nq", "dense"),
    ]
    row = rows_of(tmp_path, [*cells, *more], scores | {more[0].cell: exact(*range(24))})["lora"]
    assert isinstance(row["Gain"], Measured)
    assert (row["Gain"].value, row["Device-s per point"]) == pytest.approx((25, 7.5 / 25))
    assert rows_of(tmp_path, more)["lora"]["Gain"] is None


def test_a_gain_on_several_datasets_is_their_mean_and_its_price_is_of_all(tmp_path: Path) -> None:
    """+25 with bm25 and +75 with dense, each for 7.5 device seconds."""
    cells, scores = gaining(12)
    more = [result("gpt-a", method, "nq", "dense", predict=PREDICTED) for method in ("zeroshot", "lora")]
    scores |= {more[0].cell: exact(*range(6)), more[1].cell: exact(*range(24))}
    row = rows_of(tmp_path, [*cells, *more], scores)["lora"]
    assert isinstance(row["Gain"], Measured)
    assert (row["Gain"].value, row["Device-s per point"]) == pytest.approx((50, 15 / 50))


# totals -----------------------------------------------------------------------------------------------------------
GPU = "NVIDIA H200"
BASES = [
    BaseModel("gpt-a", "pretraining", 1800.0, 4, GPU, 3.6e6, 2**32, 2_000_000_000),
    BaseModel("retro-a", "retrofitting", 3600.0, None, GPU, None, None, 3_000_000_000),
    BaseModel("gpt-hub", "elsewhere", None, None, None, None, None, 500_000_000),
]


def ran(train: dict[str, Any], **predict: Any) -> Result:
    disk = {"finetune_cell": 1_000_000, "predict_cell": 2_000_000}
    return result("gpt-a", "lora", "nq", train=TRAINED | train, predict=PREDICTED | predict, disk=disk)


def test_totals_of_one_kind_of_device() -> None:
    cell = ran({"seconds": 1800.0, "device": GPU, "energy_joules": None}, seconds=900.0, device=GPU)
    table = totals_table([cell, result("gpt-a", "lora", "qmsum", status="missing", train={}, predict={})], BASES)
    assert table.columns == ["Stage", "Jobs", "Device hours", "Energy kWh", "Peak GiB", "Disk GB"]
    assert table.rows == [
        ["Pretraining", 1, 2.0, 1.0, 4.0, 2.0],
        ["Retrofitting", 1, None, None, None, 3.0],
        ["Models from elsewhere", None, None, None, None, 0.5],
        ["Fine-tuning", 1, 1.0, None, 1.0, 0.001],
        ["Prediction", 1, 0.25, None, None, 0.002],
        ["Whole study", 4, 3.25, 1.0, 4.0, pytest.approx(5.503)],
    ]
    assert table.rules == {5}
    assert "Device hours are those of 3 of 4 jobs" in table.notes[1]
    assert "Energy is that of 1 of 4 jobs" in table.notes[2]
    line = format_totals([cell], BASES)
    assert line == "3.250 device hours, 1.000 kWh (of 1 of 4 jobs), 5.503 GB on disk"


def test_totals_of_several_kinds_of_devices() -> None:
    """A training on GPUs and one by an earlier version, both predicted on a CPU."""
    cells = [ran({"seconds": 3600.0, "device": GPU}, seconds=3600.0), ran({"device": None}, seconds=3600.0)]
    table = totals_table(cells, BASES[:1])
    assert [row[:4] for row in table.rows] == [
        ["Pretraining", GPU, 1, 2.0],
        ["Fine-tuning", GPU, 1, 2.0],
        ["Fine-tuning", "not recorded", 1, pytest.approx(6 / 3600)],
        ["Prediction", "cpu", 2, 2.0],
        ["Whole study", GPU, 2, 4.0],
        ["Whole study", "cpu", 2, 2.0],
        ["Whole study", "all", 5, pytest.approx(6 + 6 / 3600)],
    ]
    assert table.rules == {4}


def test_a_study_without_a_job_costs_nothing_that_is_known() -> None:
    table = totals_table([result("gpt-a", status="missing", predict={})], [])
    assert table.rows == [["Whole study", *5 * [None]]]
    assert "Energy: none of 0 jobs measured it." in table.notes
    assert format_totals([], []) == "device hours not recorded, energy not measured, disk not recorded"


# what is gathered -------------------------------------------------------------------------------------------------
def write_model(paths: Paths, name: str, said: Any, **files: int) -> None:
    folder = Path(paths.model(name))
    write_json(folder / "manifest.json", said)
    for file, size in files.items():
        (folder / file).write_bytes(bytes(size))


def test_base_models_say_what_they_took_and_where_they_come_from(tmp_path: Path) -> None:
    paths = Paths(str(tmp_path / "resources"), str(tmp_path / "results"), "made-up")
    cost = {"seconds": 5, "num_devices": 2, "device": "cpu", "energy_joules": None, "peak_memory_bytes": 7}
    write_model(paths, "retro", {**cost, "source": {"retrofit_from": "gpt"}}, weights=300)
    write_model(paths, "gpt", {"source": "pretraining", "seconds": True, "device": 3, "num_devices": -1}, weights=50)
    write_model(paths, "hub", {"source": {"hub": "x/y", "path": None}}, small=10)
    (Path(paths.model("hub")) / "linked").symlink_to(Path(paths.model("retro")) / "weights")
    write_model(paths, "odd", ["no", "mapping"])
    found = {model.name: model for model in read_models(paths, ["retro", "missing", "hub", "odd"])}
    assert list(found) == ["retro", "hub", "odd", "gpt"], "what it was retrofitted from cost something, too"
    sizes = {name: Path(paths.model_manifest(name)).stat().st_size for name in found}
    assert found["retro"] == BaseModel("retro", "retrofitting", 5, 2, "cpu", None, 7, 300 + sizes["retro"])
    assert found["gpt"] == BaseModel("gpt", "pretraining", None, None, None, None, None, 50 + sizes["gpt"])
    assert (found["hub"].origin, found["hub"].disk_bytes) == ("elsewhere", 10 + sizes["hub"]), "not what links lead to"
    assert found["odd"].origin == "elsewhere"
    Path(paths.model_manifest("odd")).write_text("{")
    assert found["odd"] == replace(read_models(paths, ["odd"])[0], disk_bytes=found["odd"].disk_bytes)


def test_disk_and_models_are_collected_and_are_no_part_of_a_result(tmp_path: Path) -> None:
    config = config_of([result("gpt-a", "lora", "nq")], results_dir=str(tmp_path), resources_dir=str(tmp_path / "r"))
    paths = Paths.of(config)
    (cell,) = (item.cell for item in read_cells(config))
    folder = Path(paths.cell(cell))
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "weights").write_bytes(bytes(1000))
    (folder / "predictions.jsonl").write_bytes(bytes(40))
    written = write_result(
        folder,
        metrics_record(cell, True, train=training(), predict=predicting(), metrics={}) | {"problem": None},
        [question_scores("q1")],
    )
    write_model(paths, "gpt-a", {"source": "pretraining"})
    (found,) = read_cells(config)
    scores = written.with_name("scores.jsonl").stat().st_size
    assert found.disk == {"finetune_cell": 1000, "predict_cell": 40 + scores}
    outputs = tmp_path / "metrics.csv", tmp_path / "results.json", tmp_path / "scores.parquet"
    write_results(paths, [found], *outputs)
    assert [model.name for model in load_models(outputs[1])] == ["gpt-a"]
    (folder / "adapter" / "weights").unlink()
    (changed,) = read_cells(config)
    assert changed.disk["finetune_cell"] == 0
    assert holds(outputs[1], [changed])
    assert not holds(outputs[1], [replace(changed, num_parameters=3)])


def test_results_of_earlier_versions_have_no_models(tmp_path: Path) -> None:
    collected, _ = write_study(tmp_path, [result()], models=BASES)
    assert load_models(collected) == BASES
    older = {key: value for key, value in read_json(collected).items() if key != "models"}
    write_json(collected, older)
    assert load_models(collected) == []
