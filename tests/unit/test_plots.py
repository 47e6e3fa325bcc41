"""The figure over a study made by hand: its points are the tables' numbers, its words say what bars are."""

import json
from dataclasses import replace
from pathlib import Path

from report_cases import measures, result, study, write_study

from retrotune.report.figures.making import draw_figures
from retrotune.report.figures.scaling import points, scaling_chart
from retrotune.report.figures.style import write_figure
from retrotune.report.tables.grid import comparison_table
from retrotune.report.tables.measures import Measures
from retrotune.report.tables.table import Measured
from retrotune.study.paths import FIGURE_FORMS, Paths
from retrotune.study.stages import DrawFiguresParams


def specification(found: Measures) -> str:
    return json.dumps(scaling_chart(found).to_dict())


def test_points_of_the_figure_are_the_numbers_of_the_table(tmp_path: Path) -> None:
    """Of rows of several runs and of averages too, with their intervals."""
    results, scores = study()
    found = measures(tmp_path, results, scores)
    table = comparison_table(found, 100)
    shown = [value for row in table.rows if row[3] == "bm25" for value in row[4:] if isinstance(value, Measured)]
    frame = points(found, "bm25")
    drawn = [Measured(*values) for values in frame[["score", "low", "high"]].itertuples(index=False)]
    assert sorted(drawn) == sorted(shown)
    keyed = frame.set_index(["panel", "model", "method"])
    assert keyed.index.is_unique, "replicates and seeds are one point"
    assert ("nq", "gpt-b", "lora") not in keyed.index
    assert ("Average", "gpt-b", "lora") not in keyed.index
    assert keyed.loc[("Average", "gpt-a", "lora"), "low"] is not None
    assert keyed.loc[("nq", "gpt-a", "lora"), "parameters"] == 1e6
    assert set(points(found, "none")["model"]) == {"gpt-b"}


def test_scaling_figure_in_all_forms(tmp_path: Path) -> None:
    results, scores = study()
    collected = write_study(tmp_path, results, scores)
    outputs = [tmp_path / f"figures/scaling.{suffix}" for suffix in FIGURE_FORMS]
    paths = Paths(str(tmp_path / "resources"), str(tmp_path / "results"), "made-up")
    draw_figures(DrawFiguresParams(figures=("scaling",)), paths, *collected, None, tmp_path / "figures")
    svg = outputs[0].read_text(encoding="utf-8")
    for word in ("zeroshot", "lora", "GPT", "RETRO", "nq", "qmsum", "Average", "log scale", "1.00M"):
        assert word in svg
    assert outputs[1].read_bytes().startswith(b"%PDF")
    assert outputs[2].read_bytes().startswith(b"\x89PNG")
    assert json.loads(outputs[3].read_text(encoding="utf-8")) == scaling_chart(Measures.load(*collected)).to_dict()


def test_the_figure_says_what_its_bars_and_points_are(tmp_path: Path) -> None:
    results, scores = study()
    of_runs = specification(measures(tmp_path, results, scores))
    assert "retrieval: bm25" in of_runs
    assert "Intervals: 95 %, over documents (qmsum), questions (nq), and trainings" in of_runs
    assert "Means over up to 2 runs" in of_runs
    single = [item for item in results if item.seed == 0 and item.replicate_of is None]
    alone = specification(measures(tmp_path, single, scores))
    assert "seed variance is missing" in alone
    assert "bootstrap" not in of_runs + alone


def test_a_single_size_is_drawn_by_method(tmp_path: Path) -> None:
    results, scores = study()
    assert "Score by number of parameters" in specification(measures(tmp_path, results, scores))
    small = [item for item in results if item.size == "a"]
    assert "Score by method" in specification(measures(tmp_path, small, scores))


def test_a_model_without_a_parameter_count_is_named(tmp_path: Path) -> None:
    results = [result(model, "lora", "nq") for model in ("gpt-a", "gpt-b", "retro-a", "retro-b")]
    assert "not drawn" not in specification(measures(tmp_path, results))
    uncounted = [replace(item, num_parameters=None) if item.model == "retro-a" else item for item in results]
    assert "not drawn, as their parameters were not counted: retro-a" in specification(measures(tmp_path, uncounted))


def test_a_study_without_scores_says_so(tmp_path: Path) -> None:
    results = [result("gpt-a", "lora", "nq", status="missing")]
    write_figure(scaling_chart(measures(tmp_path, results)), tmp_path, "empty")
    assert "No cell of this study has a score" in (tmp_path / "empty.svg").read_text(encoding="utf-8")
