"""Figures of cost, gains and learning curves over studies made by hand: their points, and what they say is missing."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import altair as alt
import pytest
from report_cases import NASTY, config_of, exact, measures, result, study, write_study

from retrotune.errors import ResultError
from retrotune.report.figures import learning
from retrotune.report.figures.cost import cost_chart, cost_points, device_hours, on_front
from retrotune.report.figures.gains import gains_chart, gains_points
from retrotune.report.figures.learning import learning_chart, learning_points, read_losses, thinned
from retrotune.report.figures.making import CHARTS, Drawn, draw_figures
from retrotune.report.figures.style import COLORS, as_lines, log_ticks, palette, write_figure
from retrotune.report.gathering.collect import Result
from retrotune.runtime.files import write_jsonl
from retrotune.study.paths import Paths
from retrotune.study.reporting import figure_names
from retrotune.study.stages import DrawFiguresParams

NAN = math.nan

HELD = ("quadrants", "recall")
"""Figures of any study that is given passages."""


def words(chart: alt.TopLevelMixin) -> str:
    """A chart's own text, lines of subtitles joined."""
    texts = []
    for line in json.loads(chart.to_json())["title"].get("subtitle", []):
        texts.append(line)
    return " ".join(texts)


def costly(model: str, method: str, hours: float | None, *coordinates: Any, **changes: Any) -> Result:
    """A cell that took so many hours, half of them training where it was trained."""
    trained = method != "zeroshot"
    seconds = None if hours is None else hours * 3600 / (1 + trained)
    cost = {"num_devices": 1, "seconds": seconds}
    train = {"num_trainable_params": 5000, "num_total_params": 1_005_000, **cost} if trained else {}
    return result(model, method, *coordinates, **{"train": train, "predict": cost, **changes})


# cost


@pytest.mark.parametrize(
    ("costs", "scores", "front"),
    [
        ([1, 2, 3], [10, 20, 15], [True, True, False]),
        ([1, 1, 1], [10, 20, 20], [False, True, True]),
        ([2, 1], [10, 10], [False, True]),
        ([NAN, 5], [99, 1], [False, True]),
    ],
    ids=["worse and dearer", "equal cost", "equal score", "unknown cost"],
)
def test_the_front_is_what_nothing_beats(costs: list[float], scores: list[float], front: list[bool]) -> None:
    assert on_front(costs, scores) == front


def test_hours_are_means_of_runs_summed_over_datasets_times_devices() -> None:
    runs = [costly("gpt-a", "lora", 2, "nq"), costly("gpt-a", "lora", 4, "nq", "bm25", 1)]
    other = costly("gpt-a", "lora", 1, "qmsum")
    assert device_hours([*runs, other]) == pytest.approx(3 + 1)
    on_two = replace(other, train={**other.train, "num_devices": 2}, predict={**other.predict, "num_devices": 4})
    assert device_hours([on_two]) == pytest.approx(0.5 * 2 + 0.5 * 4)
    assert device_hours([*runs, costly("gpt-a", "lora", None, "qmsum")]) is None
    assert device_hours([*runs, costly("gpt-a", "lora", 9, "qmsum", status="failed")]) == pytest.approx(3)
    old = replace(other, train={"seconds": 1800.0}, predict={"seconds": 1800.0})
    assert device_hours([old]) is None, "how many devices it had is not known"


def test_cost_points_of_averages_and_of_datasets_where_one_is_lacking(tmp_path: Path) -> None:
    results = [
        costly("gpt-a", "zeroshot", 1, "nq"), costly("gpt-a", "zeroshot", 2, "qmsum"),
        costly("gpt-a", "lora", 3, "nq"), costly("gpt-a", "lora", 4, "qmsum"),
    ]  # fmt: skip
    whole = cost_points(measures(tmp_path, results), "bm25")
    assert list(whole["panel"].unique()) == ["Average"]
    assert list(whole["hours"]) == [3, 7]
    assert list(whole["parameters"]) == [0, 5000], "zero-shot trains nothing"
    results[3] = costly("gpt-a", "lora", 4, "qmsum", status="failed", problem="out of memory")
    scores = {results[0].cell: exact(1), results[2].cell: exact(1, 2)}
    found = measures(tmp_path, results, scores)
    frame = cost_points(found, "bm25").set_index(["panel", "method"])
    assert list(frame.index) == [
        ("Average", "zeroshot"), ("nq", "zeroshot"), ("nq", "lora"), ("qmsum", "zeroshot"),
    ]  # fmt: skip
    assert frame.loc[("nq", "lora"), "hours"] == 3
    assert frame.loc[("nq", "lora"), "score"] == pytest.approx(100 * 2 / 24)
    assert frame["hours_front"].all()
    assert frame["parameters_front"].all()
    said = words(cost_chart(found))
    assert "Rows that lack a score on some dataset are in the panels of datasets alone" in said
    assert "1 of 4 cells have no score" in said


def test_the_figure_of_cost_names_what_it_does_not_draw(tmp_path: Path) -> None:
    results = [
        costly("gpt-a", "zeroshot", 1), costly("gpt-b", "zeroshot", 0.5), costly("gpt-a", "lora", None),
    ]  # fmt: skip
    chart = cost_chart(measures(tmp_path, results))
    assert "not drawn over device hours, which were not recorded: gpt-a/lora" in words(chart)
    assert "(zero-shot)" in chart.to_json()
    older = [replace(item, predict={"seconds": 60.0}) for item in results[:2]]
    said = words(cost_chart(measures(tmp_path, older)))
    assert "not drawn over device hours, which were not recorded: gpt-a/zeroshot, gpt-b/zeroshot" in said
    unmeasured = [replace(results[2], train={})]
    assert "measured what it cost" in cost_chart(measures(tmp_path, unmeasured)).to_json()


# gains


def test_gains_are_paired_and_missing_ones_stay(tmp_path: Path) -> None:
    results = [
        result("gpt-a", "zeroshot"), result("gpt-a", "lora"), result("gpt-b", "zeroshot"), result("gpt-b", "lora"),
        result("retro-a", "zeroshot", status="missing"), result("retro-a", "lora"),
        result("retro-b", "zeroshot"), result("retro-b", "lora", status="failed", problem="out of memory"),
    ]  # fmt: skip
    scores = {
        results[0].cell: exact(0), results[1].cell: exact(*range(12)),
        results[2].cell: exact(0, 1, 2), results[3].cell: exact(3, 1),
    }  # fmt: skip
    found = measures(tmp_path, results, scores)
    frame = gains_points(found, "bm25").set_index("model")
    assert frame.loc["gpt-a", "gain"] == pytest.approx(100 * 11 / 24)
    assert frame.loc["gpt-a", "differs"] is True
    assert frame.loc["gpt-a", "low"] > 0
    assert frame.loc["gpt-b", "gain"] == pytest.approx(-100 / 24)
    assert frame.loc["gpt-b", "differs"] is False
    assert frame.loc["gpt-b", "low"] < 0 < frame.loc["gpt-b", "high"]
    assert list(frame.loc[["retro-a", "retro-b"], "state"]) == ["no zero-shot", "failed"]
    assert frame.loc[["retro-a", "retro-b"], "gain"].isna().all()
    chart = gains_chart(found)
    assert "2 of 4 tiles are empty" in words(chart)
    drawn = {row["model"]: row for data in json.loads(chart.to_json())["datasets"].values() for row in data}
    assert {name: row["text"] for name, row in drawn.items()} == {
        "gpt-a": "+45.8", "gpt-b": "(\u22124.2)", "retro-a": "", "retro-b": "",
    }  # fmt: skip
    assert drawn["gpt-a"]["ink"] == "#ffffff"
    assert drawn["gpt-b"]["ink"] == "#000000"


def test_gains_of_an_average_need_both_rows_on_every_dataset(tmp_path: Path) -> None:
    results = [result(model, method, dataset) for model in ("gpt-a", "gpt-b") for method in ("zeroshot", "lora")
               for dataset in ("nq", "qmsum")]  # fmt: skip
    results[1] = result("gpt-a", "zeroshot", "qmsum", status="running")
    frame = gains_points(measures(tmp_path, results), "bm25").set_index(["panel", "model"])["gain"]
    assert math.isnan(frame["Average", "gpt-a"])
    assert math.isnan(frame["qmsum", "gpt-a"])
    assert frame["Average", "gpt-b"] == pytest.approx((frame["nq", "gpt-b"] + frame["qmsum", "gpt-b"]) / 2)


# learning curves


@pytest.mark.parametrize(("count", "most"), [(1, 60), (60, 60), (61, 60), (1000, 60), (5, 2)])
def test_a_thinned_curve_keeps_its_ends(count: int, most: int) -> None:
    whole = [(step, float(step)) for step in range(1, count + 1)]
    kept = thinned(whole, most)
    assert len(kept) == min(count, most)
    assert (kept[0], kept[-1]) == (whole[0], whole[-1])
    assert kept == sorted(set(kept))


def paths_in(folder: Path) -> Paths:
    return Paths(str(folder / "resources"), str(folder / "results"), "made-up")


def log(paths: Paths, cell: Result, lines: int = 100) -> Path:
    path = Path(paths.cell(cell.cell, "train_log.jsonl"))
    write_jsonl(path, ({"step": step, "loss": 3 / step, "learning_rate": 1e-3} for step in range(1, lines + 1)))
    return path


def test_learning_curves_of_trained_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = paths_in(tmp_path)
    results = [
        result("gpt-a", "lora"), result("gpt-b", "lora"), result("retro-a", "lora"), result("gpt-a", "zeroshot"),
        result("retro-b", "lora", status="running"), result("gpt-a", "lora", "nq", "none"),
    ]  # fmt: skip
    for item in (results[0], results[1], results[4], results[5]):
        log(paths, item, lines=1 if item is results[1] else 100)
    found = measures(tmp_path, results)
    curves = learning_points(found, paths, "bm25")
    assert curves.lacking == ("retro-a/lora/nq/bm25/seed0",)
    sizes = curves.frame.groupby("model").size()
    assert dict(sizes) == {"gpt-a": 60, "gpt-b": 1}, "no line of another retrieval, or of a cell without a score"
    assert list(curves.frame["step"])[:60:59] == [1, 100]
    assert list(curves.frame["loss"])[:1] == [3.0]
    said = words(learning_chart(found, paths))
    assert "not drawn, as they have no train_log.jsonl: 1 of 3 cells (retro-a/lora/nq/bm25/seed0)" in said
    assert "1 of 4 trained cells have no score yet" in said
    assert "1 other not drawn" in said
    monkeypatch.setattr(learning, "POINTS", 20)
    assert dict(learning_points(found, paths, "bm25").frame.groupby("model").size()) == {"gpt-a": 10, "gpt-b": 1}
    monkeypatch.setattr(learning, "POINTS", 2)
    assert learning_points(found, paths, "bm25").left_out == 1
    assert "so many lines could not be read: 1 of 3 cells" in words(learning_chart(found, paths))


@pytest.mark.parametrize(
    "line",
    ['{"step": 2, "loss"', '{"step": 2}', '{"step": "2", "loss": 1}', '{"step": true, "loss": 1}', "[2, 1]",
     '{"step": 2, "loss": NaN}', '{"step": 1, "loss": 1}'],
    ids=["cut", "no loss", "a word", "a truth value", "no object", "not finite", "a step again"],
)  # fmt: skip
def test_a_damaged_log_is_refused_by_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "train_log.jsonl"
    path.write_text('{"step": 1, "loss": 2.5}\n' + line + "\n")
    with pytest.raises(ResultError, match=r"train_log\.jsonl:2: .*; delete the cell's folder"):
        read_losses(path)


# all figures


def test_which_figures_a_study_has() -> None:
    plain, tuned = [result("gpt-a", "zeroshot")], [result("gpt-a", "lora")]
    assert figure_names(config_of(plain)) == ("scaling", "cost", *HELD)
    assert figure_names(config_of(tuned)) == ("scaling", "cost", "learning", *HELD)
    assert figure_names(config_of(plain + tuned)) == ("scaling", "cost", "gains", "learning", *HELD)
    apart = [{"methods": ["zeroshot"], "retrievals": ["none"]}, {"methods": ["lora"], "retrievals": ["bm25"]}]
    results = [result("gpt-a", "zeroshot", "nq", "none"), *tuned]
    assert "gains" not in figure_names(config_of(results, grid=apart)), "there is nothing to pair"


def test_all_figures_of_an_awkward_study(tmp_path: Path) -> None:
    """Gaps, replicates, a name that breaks pages, unknown costs: each figure is drawn, and has tooltips and a title."""
    results, scores = study()
    found = measures(tmp_path, results, scores)
    paths = paths_in(tmp_path)
    for item in results:
        if item.trained and item.status == "done":
            log(paths, item, 3)
    charts = {name: CHARTS[name](Drawn(found, {}, paths)) for name in ("scaling", "cost", "gains", "learning")}
    for name, chart in charts.items():
        write_figure(chart, tmp_path, name)
        text = chart.to_json()
        assert "\\u001b" not in text, name
        assert '"tooltip"' in text, name
        for field in ("Family", "Size", "Model", "Method", "Dataset", "Score", "95 % interval"):
            assert f'"title": "{field}"' in text, (name, field)
        assert "retrieval: bm25; 1 other not drawn" in words(chart)
        assert "\x1b" not in (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
    printed = json.dumps(NASTY.replace("\n", "?").replace("\x1b", "?"), ensure_ascii=False)
    assert printed in charts["gains"].to_json(ensure_ascii=False)


def test_a_study_without_results_gives_figures_that_say_so(tmp_path: Path) -> None:
    results = [result("gpt-a", method, status="missing") for method in ("zeroshot", "lora")]
    collected = write_study(tmp_path, results)
    params = DrawFiguresParams(figures=tuple(CHARTS))
    draw_figures(params, paths_in(tmp_path), *collected, None, tmp_path / "figures")
    for name in CHARTS:
        words = "whether passages hold" if name in ("quadrants", "recall") else "yet"
        assert words in (tmp_path / f"figures/{name}.svg").read_text(encoding="utf-8"), name
        assert (tmp_path / f"figures/{name}.png").exists()


def test_colors_of_many_methods_differ() -> None:
    assert palette(3) == list(COLORS[:3])
    assert len(set(palette(40))) == 40
    assert len(palette(99)) == 99


def test_many_methods_have_a_legend_in_columns(tmp_path: Path) -> None:
    results = [costly("gpt-a", f"lora-{number}", 1 + number) for number in range(40)]
    chart = json.loads(cost_chart(measures(tmp_path, results)).to_json())
    assert '"columns": 2' in json.dumps(chart)
    assert chart["config"]["legend"]["symbolLimit"] == 0


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0.9, 12, [1, 2, 5, 10]), (1, 2e4, [1, 10, 100, 1e3, 1e4]), (1.2, 1.3, [1.2]), (1, 1e7, [1, 100, 1e4, 1e6])],
)
def test_ticks_of_a_log_scale_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert log_ticks(low, high) == pytest.approx(ticks)


def test_a_line_does_not_begin_with_a_percent_sign() -> None:
    assert not any(line.startswith("%") for line in as_lines("word " * 20 + "the 95 % interval " * 20))
