"""Quadrants and patterns of trouble, on cells made by hand: each pattern where it is, and where it is just not."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from report_cases import NASTY, result
from scored_cases import score_cells, study

from retrotune.cli import main
from retrotune.errors import ResultError
from retrotune.report.figures.making import draw_figures
from retrotune.report.figures.quadrants import bars, quadrants_chart
from retrotune.report.figures.recall import recall_chart, recall_points
from retrotune.report.figures.style import write_figure
from retrotune.report.gathering.collect import Result
from retrotune.report.judging import diagnosis
from retrotune.report.judging.diagnosing import as_text, diagnose_cells, diagnosis_table, load_diagnosis
from retrotune.report.judging.evidence import Evidence, Finding
from retrotune.report.judging.quadrants import Quadrants, count_quadrants, load_quadrants, total
from retrotune.report.tables.measures import Measures
from retrotune.runtime.files import write_json, write_jsonl
from retrotune.scoring.sheets import make_sheet, write_scores
from retrotune.study.cells import Cell, expand_grid
from retrotune.study.config import load_config
from retrotune.study.paths import Paths
from retrotune.study.resolve import diagnosing
from retrotune.study.stages import DiagnoseParams, DrawFiguresParams

ASKED = 100
IDS = tuple(f"q{number}" for number in range(ASKED))


def right(*of: int) -> list[float]:
    """Scores of the questions: those of the given numbers are right."""
    return [100.0 * (number in of) for number in range(ASKED)]


def first(count: int, start: int = 0) -> list[float]:
    """Scores of the questions: `count` of them, from `start` on, are right."""
    return right(*range(start, start + count))


def measured(scores: Mapping[Cell, Sequence[float]]) -> Measures:
    """Cells with these exact matches of the questions."""
    results = [result(*vars(cell).values()) for cell in scores]
    rows = {cell: (IDS, [None] * ASKED, np.array(values)[:, None]) for cell, values in scores.items()}
    return Measures(results, {"nq": make_sheet("nq", "exact_match", rows)} if rows else {})


def counted(**changes: Any) -> Quadrants:
    """A cell that shows no pattern, unless `changes` make it do so: 80 answers are there, of which 60 are given."""
    values: dict[str, Any] = {"questions": ASKED, "there": 80, "absent": 20, "copied": 50, "cut": 0}
    values |= {"there_right": 60, "there_wrong": 20, "absent_right": 2, "absent_wrong": 18}
    values |= {"measured": ASKED, "at_cap": 0, "empty": 0, "distinct": 70}
    return Quadrants(**{**values, **changes})


def cell(model: str = "gpt-a", method: str = "lora", retrieval: str = "bm25", seed: int = 0) -> Cell:
    return Cell(model, method, "nq", retrieval, seed)


def evidence(
    scores: Mapping[Cell, Sequence[float]],
    quadrants: Mapping[Cell, Quadrants] | None = None,
    losses: Mapping[Cell, Sequence[float]] | None = None,
    effect: float = 5.0,
) -> Evidence:
    known = {one: counted() for one in scores} | dict(quadrants or {})
    return Evidence(measured(scores), known, losses or {}, effect)


def only(found: Evidence, pattern: Any) -> Finding | None:
    """What a pattern finds."""
    findings = list(pattern(found))
    assert len(findings) < 2, "many cells with one pattern are one finding"
    return findings[0] if findings else None


# quadrants ----------------------------------------------------------------------------------------------------------
def answers(folder: Path, rows: Mapping[Cell, Sequence[Mapping[str, Any]]]) -> Path:
    """answers.parquet of cells, an entry per question."""
    plain = {"prediction": "x", "held": True, "copied": False, "cut": 0, "at_cap": False}
    lines = [{**vars(one), **plain, **row} for one, own in rows.items() for row in own]
    frame = pd.DataFrame(lines)
    for name in ("held", "at_cap"):
        frame[name] = frame[name].astype("boolean")
    frame.to_parquet(folder / "answers.parquet")
    return folder / "answers.parquet"


def small(values: Mapping[Cell, Sequence[float]], part: str = "exact_match") -> Measures:
    """Cells with scores of a few questions, two to a document."""
    rows = {
        one: (
            [f"q{number}" for number in range(len(own))],
            [f"d{number // 2}" for number in range(len(own))],
            np.array(own)[:, None],
        )
        for one, own in values.items()
    }
    return Measures([result(*vars(one).values(), metric=part) for one in values], {"nq": make_sheet("nq", part, rows)})


def test_quadrants_are_counted_whatever_the_order_of_answers(tmp_path: Path) -> None:
    scores = [100.0, 0.0, 49.9, 50.0, 100.0, 0.0]
    held = [True, True, False, False, True, None]
    rows = [
        {"question_id": f"q{number}", "held": held[number], "prediction": str(number // 2), "cut": 3 * (number == 1)}
        for number in range(6)
    ]
    rows[0] |= {"copied": True, "at_cap": True}
    rows[5] |= {"prediction": "", "at_cap": None}
    found = count_quadrants(small({cell(): scores}, "f1"), answers(tmp_path, {cell(): rows[::-1]}))[cell()]
    assert found.counts() == (2, 1, 1, 1)
    assert (found.questions, found.there, found.absent, found.copied, found.cut) == (6, 3, 2, 1, 1)
    assert (found.measured, found.at_cap, found.empty, found.distinct) == (5, 1, 1, 4)
    assert (found.points_capped, found.points_other) == (100.0, pytest.approx(199.9 / 4))
    assert found.points_use is None, "those that are absent share a document, which says nothing of spread"


def test_the_bound_of_what_passages_give_leaves_out_whole_documents(tmp_path: Path) -> None:
    """Held against the jackknife written out: two documents, each with a question of either kind."""
    rows = [{"question_id": f"q{number}", "held": number % 2 == 0} for number in range(4)]
    found = count_quadrants(small({cell(): [100.0, 0.0, 60.0, 20.0]}), answers(tmp_path, {cell(): rows[::-1]}))[cell()]
    assert found.points_use == 70
    without = [60 - 20, 100 - 0]
    se = np.sqrt(1 / 2 * sum((value - np.mean(without)) ** 2 for value in without))
    assert found.points_use_high == pytest.approx(70 + 12.7062 * se, rel=1e-4)


def test_where_no_passage_can_hold_an_answer_nothing_is_counted(tmp_path: Path) -> None:
    rows = [{"question_id": f"q{number}", "held": None, "at_cap": None} for number in range(2)]
    found = count_quadrants(small({cell(): [0.0, 100.0]}), answers(tmp_path, {cell(): rows}))[cell()]
    assert (found.there, found.absent, found.measured) == (0, 0, 0)
    assert (found.counts(), found.points_use, found.points_capped) == (None, None, None)


def test_a_function_of_means_has_no_score_per_question(tmp_path: Path) -> None:
    rows = [{"question_id": f"q{number}", "held": number == 0, "at_cap": number == 0} for number in range(2)]
    parts = np.array([[40.0, 10.0, 20.0], [30.0, 30.0, 30.0]])
    sheet = make_sheet("nq", "rouge_geometric", {cell(): (["q0", "q1"], ["a", "b"], parts)})
    found = count_quadrants(
        Measures([result(*vars(cell()).values(), metric="rouge_geometric")], {"nq": sheet}),
        answers(tmp_path, {cell(): rows}),
    )[cell()]
    assert (found.there, found.absent, found.there_right, found.counts()) == (1, 1, None, None)
    assert (found.points_capped, found.points_other) == (pytest.approx(20), pytest.approx(30))


def test_answers_of_other_questions_are_refused(tmp_path: Path) -> None:
    rows = [{"question_id": "q0"}, {"question_id": "q7"}]
    for given in ({cell(): rows}, {cell(): rows[:1]}, {cell("gpt-b"): rows}):
        with pytest.raises(ResultError, match="not the questions that gpt-a/lora/nq/bm25/seed0 was scored on"):
            count_quadrants(small({cell(): [0.0, 100.0]}), answers(tmp_path, given))


def test_runs_add_up() -> None:
    found = total([counted(), counted(distinct=9, points_use=3.0)])
    assert found.counts() == (120, 40, 4, 36)
    assert (found.questions, found.distinct, found.points_use) == (200, 70, None)
    assert total([counted(), counted(there_right=None)]).counts() is None


# patterns -----------------------------------------------------------------------------------------------------------
RETRO, GPT = cell("retro-a"), cell("gpt-a")


@pytest.mark.parametrize(
    ("retro", "is_found"),
    [
        ({"there": 79, "absent": 21}, True),
        ({}, False),
        ({"there": 90, "absent": 10, "cut": 10}, True),
        ({"there": 90, "absent": 10, "cut": 9}, False),
        ({"there": 0, "absent": 0, "cut": 10}, True),
        ({"there": 0, "absent": 0}, False),
    ],
)
def test_retro_below_gpt_where_passages_do_not_reach_it(retro: dict[str, int], is_found: bool) -> None:
    scores = {GPT: first(50), RETRO: first(30)}
    found = only(evidence(scores, {RETRO: counted(**retro)}), diagnosis.retro_below_gpt)
    assert (found is not None) == is_found
    if found is not None:
        assert found.cells == (RETRO.name,)
        assert found.evidence["points below GPT"] == pytest.approx(20)
        assert found.evidence["interval to"] < 0


def test_retro_below_gpt_needs_a_difference_and_an_encoder() -> None:
    low = {RETRO: counted(there=49, absent=51), GPT: counted(there=49, absent=51)}
    assert only(evidence({GPT: first(50), RETRO: first(30)}, low), diagnosis.retro_below_gpt)
    half = {one: counted(there=50, absent=50) for one in low}
    assert not only(evidence({GPT: first(50), RETRO: first(30)}, half), diagnosis.retro_below_gpt)
    assert not only(evidence({GPT: first(50), RETRO: first(49)}, low), diagnosis.retro_below_gpt)
    assert not only(evidence({GPT: first(50), cell("retro-b"): first(30)}), diagnosis.retro_below_gpt), "another size"
    off = evidence({GPT: first(50), RETRO: first(30)}, low)
    results = [replace(item, retrieval_gate=0.0) if item.family == "retro" else item for item in off.done]
    closed = Evidence(Measures(results, off.measures.sheets), off.quadrants, {}, 5.0)
    assert not only(closed, diagnosis.retro_below_gpt)


def test_ptuning_that_learns_nothing_where_lora_does() -> None:
    zero, tuned, lora = cell(method="zeroshot"), cell(method="ptuning"), cell(method="lora")
    flat = {zero: first(20), tuned: first(22), lora: first(50)}
    found = only(evidence(flat), diagnosis.ptuning_flat)
    assert found is not None
    assert found.cells == (tuned.name,)
    assert found.evidence["points gained by P-tuning"] == pytest.approx(2)
    assert found.evidence["points gained by the best other method"] == pytest.approx(30)
    assert not only(evidence({**flat, tuned: first(30)}), diagnosis.ptuning_flat), "it gains"
    assert not only(evidence({**flat, lora: first(22)}), diagnosis.ptuning_flat), "nothing learns"
    elsewhere = {
        zero: first(20),
        tuned: first(22),
        cell("gpt-b", "lora"): first(50),
        cell("gpt-b", "zeroshot"): first(9),
    }
    assert not only(evidence(elsewhere), diagnosis.ptuning_flat), "another model's"


@pytest.mark.parametrize(
    ("losses", "is_found"),
    [
        ([2.0] * 10, True),
        ([2.0] * 9, False),
        ([2.0] * 9 + [1.91], True),
        ([2.0] * 9 + [1.89], False),
        ([2.0, 2.0] + [1.0] * 16 + [2.5, 1.3], True),
        ([2.0, 2.0] + [5.0] * 16 + [2.5, 1.2], False),
    ],
)
def test_a_loss_that_does_not_fall(losses: list[float], is_found: bool) -> None:
    given = evidence({GPT: first(5), RETRO: first(5)}, losses={GPT: losses})
    found = only(given, diagnosis.loss_that_does_not_fall)
    assert (found is not None) == is_found
    if found is not None:
        assert (found.cells, found.evidence["loss in the first tenth"]) == ((GPT.name,), 2.0)
    said = " ".join(diagnosis.notes(given))
    assert "1 of 2 trained cells have no readable train_log.jsonl" in said
    assert ("fewer than 10 lines" in said) == (len(losses) < 10)


@pytest.mark.parametrize(
    ("capped", "points", "is_found"),
    [(6, (10.0, 11.0), True), (5, (10.0, 11.0), False), (20, (11.0, 11.0), False), (21, (12.0, 11.0), True)],
)
def test_answers_cut_by_the_cap(capped: int, points: tuple[float, float], is_found: bool) -> None:
    own = counted(at_cap=capped, points_capped=points[0], points_other=points[1])
    found = only(evidence({GPT: first(5), RETRO: first(5)}, {GPT: own}), diagnosis.cut_by_the_cap)
    assert (found is not None) == is_found
    assert found is None or found.evidence["% of answers at the cap"] == capped


def test_lengths_that_were_not_recorded_are_said_once() -> None:
    given = evidence({GPT: first(5), RETRO: first(5)}, {GPT: counted(measured=0), RETRO: counted(measured=0)})
    assert not only(given, diagnosis.cut_by_the_cap)
    assert [note for note in diagnosis.notes(given) if "length" in note] == [
        "In 2 of 2 cells the length of answers was not recorded: whether the cap cut them is not known."
    ]


@pytest.mark.parametrize(("value", "is_found"), [(89.9, True), (90.0, False)])
def test_choices_that_cannot_be_read(value: float, is_found: bool) -> None:
    given = evidence({GPT: first(5), RETRO: first(5)})
    results = [replace(one, metrics={**one.metrics, "parsable": {"value": value}}) for one in given.done[:1]]
    found = only(replace(given, measures=Measures(results, given.measures.sheets)), diagnosis.unparsable)
    assert (found is not None) == is_found
    assert not only(given, diagnosis.unparsable), "no choices"


@pytest.mark.parametrize(
    ("own", "is_found"),
    [
        ({"empty": 11}, True),
        ({"empty": 10}, False),
        ({"distinct": 1}, True),
        ({"distinct": 2}, False),
        ({"distinct": 1, "questions": 9}, False),
    ],
)
def test_predictions_that_are_empty_or_all_the_same(own: dict[str, int], is_found: bool) -> None:
    found = only(evidence({GPT: first(5)}, {GPT: counted(**own)}), diagnosis.says_nothing)
    assert (found is not None) == is_found


@pytest.mark.parametrize(
    ("own", "is_found"),
    [
        ({"points_use": 1.0, "points_use_high": 4.9}, True),
        ({"points_use": 1.0, "points_use_high": 5.0}, False),
        ({"points_use": 1.0, "points_use_high": 4.9, "there": 50, "absent": 50}, True),
        ({"points_use": 1.0, "points_use_high": 4.9, "there": 49, "absent": 51}, False),
        ({}, False),
    ],
)
def test_answers_that_are_there_and_not_used(own: dict[str, Any], is_found: bool) -> None:
    found = only(evidence({GPT: first(5)}, {GPT: counted(**own)}), diagnosis.answers_not_used)
    assert (found is not None) == is_found


def test_intervals_wider_than_the_effect() -> None:
    given = evidence({GPT: first(5), RETRO: first(5)}, effect=2.0)
    bounds = {GPT.name: (10.0, 14.0), RETRO.name: (10.0, 18.0)}
    results = [
        replace(
            one, metrics={one.metric: {"value": 12.0, "ci_low": bounds[one.name][0], "ci_high": bounds[one.name][1]}}
        )
        for one in given.done
    ]
    found = only(replace(given, measures=Measures(results, {})), diagnosis.intervals_too_wide)
    assert found is not None
    assert found.cells == (RETRO.name,), "±2 is no wider than 2"
    assert found.evidence["questions needed"] == 4 * ASKED, "half the width takes four times the questions"
    assert not only(given, diagnosis.intervals_too_wide), "without an interval"


def test_many_cells_are_one_finding_and_the_most_serious_stands_first() -> None:
    cells = [cell(seed=seed) for seed in range(5)]
    mute = {one: counted(empty=20 + one.seed) for one in cells} | {cells[0]: counted(at_cap=50)}
    found = diagnosis.find(evidence(dict.fromkeys(cells, first(5)), mute))
    assert [finding.pattern for finding in found] == ["same-or-empty", "answers-cut"]
    assert len(found[0].cells) == 4
    assert found[0].cells[0] == cells[4].name, "the worst is named first"
    assert "in 4 of 5 cells:" in found[0].says
    assert found[0].says.endswith("seed2 and 1 more.")
    assert diagnosis.find(evidence(dict.fromkeys(cells, first(5)))) == []


# the stage, its table and its text ----------------------------------------------------------------------------------
def written(folder: Path, size: str = "a") -> tuple[list[Result], tuple[Path, Path, Path], Paths]:
    """A study of two scored cells and a missing one: results, collected files, paths."""
    results = [
        result("gpt-a", "zeroshot", size=size),
        result("gpt-a", "lora", size=size),
        result("gpt-b", "lora", status="missing"),
    ]
    done = [item for item in results if item.status == "done"]
    files = []
    for item in done:
        files.append((item.cell, folder / f"{item.method}.jsonl"))
        line = {"doc_id": None, "type": None}
        lines = [{"question_id": f"q{n}", **line, "scores": {"exact_match": 100.0 * (n < 4)}} for n in range(20)]
        write_jsonl(files[-1][1], lines)
    write_scores(folder / "scores.parquet", files, ["exact_match"])
    write_json(folder / "results.json", {"study": "made-up", "results": [vars(item) for item in results]})
    rows = [
        {
            "question_id": f"q{n}",
            "held": n < 5,
            "copied": n < 4,
            "at_cap": n == 19,
            "cut": n // 18,
            "prediction": str(n),
        }
        for n in range(20)
    ]
    paths = Paths(str(folder / "resources"), str(folder / "results"), "made-up")
    collected = folder / "results.json", folder / "scores.parquet"
    return results, (*collected, answers(folder, {item.cell: rows for item in done})), paths


def diagnosed(folder: Path, **changes: Any) -> tuple[dict[str, Any], list[Result]]:
    results, files, paths = written(folder, **changes)
    log = Path(paths.cell(cell(), "train_log.jsonl"))
    log.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(log, [{"step": step, "loss": 3.0} for step in range(12)])
    diagnose_cells(DiagnoseParams(effect=5.0), paths, *files, folder)
    return load_diagnosis(folder / "diagnosis.json"), results


def test_the_stage_writes_quadrants_findings_and_a_table(tmp_path: Path) -> None:
    found, results = diagnosed(tmp_path)
    assert [record["method"] for record in found["cells"]] == ["zeroshot", "lora"]
    quadrants = load_quadrants(tmp_path / "diagnosis.json")
    assert quadrants[cell()].counts() == (4, 1, 0, 15)
    assert [finding["pattern"] for finding in found["findings"]] == ["loss-flat"]
    line = ["20", "25.0", "80.0", "0.0", "20.0", "10.0", "5.0"]
    table = diagnosis_table(results, quadrants)
    texts = [[table.text_of(row, column) for column in range(len(table.columns))] for row in range(3)]
    assert texts[1] == ["GPT", "a (1.00M)", "lora", "nq", *line]
    assert texts[2][-7:] == ["–"] * 7, "a missing cell keeps its line"
    html = (tmp_path / "diagnosis.html").read_text(encoding="utf-8")
    assert "The training loss does not fall" in html
    assert as_text(found).splitlines()[:3] == [
        "made-up: 1 pattern of known trouble in 2 of 3 cells, the most serious first",
        "",
        "1. The training loss does not fall, in 1 of 1 cells: gpt-a/lora/nq/bm25/seed0.",
    ]


def test_a_study_without_trouble_says_so(tmp_path: Path) -> None:
    found, _ = diagnosed(tmp_path)
    assert as_text({**found, "findings": []}) == "made-up: nothing known is wrong in 2 of 3 cells"
    none = {**found, "findings": [], "cells": []}
    assert as_text(none) == "made-up: none of 3 cells has a score: nothing is known yet"


def test_a_log_that_is_none_is_left_out(tmp_path: Path) -> None:
    _, files, paths = written(tmp_path)
    log = Path(paths.cell(cell(), "train_log.jsonl"))
    log.parent.mkdir(parents=True)
    for text in ('{"step": 1}\n', "[]\n", '{"loss": '):
        log.write_text(text)
        diagnose_cells(DiagnoseParams(effect=5.0), paths, *files, tmp_path)
        assert (
            "1 of 1 trained cells have no readable train_log" in load_diagnosis(tmp_path / "diagnosis.json")["notes"][0]
        )


def test_no_name_reaches_the_terminal_raw(tmp_path: Path) -> None:
    found, _ = diagnosed(tmp_path)
    found["findings"][0]["says"] = NASTY
    assert "\x1b" not in as_text(found)
    assert "\n" not in as_text(found).splitlines()[2]


def test_the_effect_is_the_smallest_margin_of_the_claims(tmp_path: Path) -> None:
    claims = {
        "large": {"kind": "difference", "of": {"family": "retro"}, "against": {"family": "gpt"}, "margin": 3},
        "small": {"kind": "difference", "of": {"family": "gpt"}, "against": {"family": "retro"}, "margin": -2},
        "none": {"kind": "ranking", "order": [{"family": "gpt"}, {"family": "retro"}]},
        "slope": {"kind": "slope", "of": {"family": "gpt"}, "margin": 1},
    }
    file = tmp_path / "claims.yaml"
    models = {"gpt-a": {"family": "gpt", "size": "a"}}
    for names, effect in ((claims, 2.0), (["large", "none"], 3.0), (["none", "slope"], 5.0)):
        file.write_text(yaml.safe_dump({name: {"says": name, **claims[name]} for name in names}))
        assert diagnosing(study(tmp_path, models, claims=[str(file)])).effect == effect


# the command --------------------------------------------------------------------------------------------------------
def test_the_command_diagnoses_what_is_done(tmp_path: Path, capsys: Any) -> None:
    """Half of the cells are done, one of which says the same to all questions."""
    config = study(tmp_path, {"gpt-a": {"family": "gpt", "size": "a"}}, claims=[])
    done = [one for one in expand_grid(config) if one.method == "lora"]
    score_cells(config, lambda one, n: "nothing" if one.dataset == "nq" else f"right {n}", {"gpt-a": 9}, done)
    file = tmp_path / "study.json"
    write_json(file, config.given())
    assert load_config(config.given()) == config
    assert main(["diagnose", "--configfile", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "of known trouble in 2 of 6 cells" in printed
    assert "one and the same for every question, in 1 of 2 cells: gpt-a/lora/nq/none/seed0." in printed
    assert "What to do:" in printed
    assert main(["diagnose", "--json", "--configfile", str(file)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["findings"][0]["pattern"] == "same-or-empty"
    assert not Path(Paths.of(config).report("tables")).exists(), "the workflow's folders are left alone"


def test_the_command_says_why_it_cannot(tmp_path: Path, capsys: Any) -> None:
    config = study(tmp_path, {"gpt-a": {"family": "gpt", "size": "a"}}, claims=[])
    score_cells(config, lambda one, n: "x", {"gpt-a": 9}, expand_grid(config)[:1])
    Path(Paths.of(config).references("nq", "test")).unlink()
    write_json(tmp_path / "study.json", config.given())
    assert main(["diagnose", "--configfile", str(tmp_path / "study.json")]) == 1
    assert "references.parquet" in capsys.readouterr().err
    assert main(["tables", "--configfile", str(tmp_path / "study.json")]) == 0
    assert "the cells are not diagnosed: " in capsys.readouterr().out


# figures ------------------------------------------------------------------------------------------------------------
def test_figures_show_the_numbers_of_the_cells() -> None:
    scores = {GPT: first(50), cell("gpt-a", "zeroshot"): first(5), cell("gpt-a", "lora", "none"): first(2)}
    closed = counted(there=0, absent=0)
    given = evidence(scores, {cell("gpt-a", "lora", "none"): closed})
    frame = bars(given.measures, given.quadrants, "bm25")
    lora = frame[frame["row"] == "gpt-a lora"]
    assert list(lora["share"]) == [60, 20, 2, 18]
    assert list(lora["start"]) == [0, 60, 80, 82]
    points = recall_points(given.measures, given.quadrants)
    assert [tuple(row) for row in points[["method", "recall", "score"]].to_numpy()] == [
        ("lora", 80, 50),
        ("zeroshot", 80, 5),
    ]


def test_figures_of_many_methods_and_long_names(tmp_path: Path) -> None:
    names = [f"{'m' * 190}<b>&\x1b\u202e{number}" for number in range(40)]
    given = evidence({cell("gpt-a", name): first(number) for number, name in enumerate(names)})
    write_figure(quadrants_chart(given.measures, given.quadrants), tmp_path, "quadrants")
    write_figure(recall_chart(given.measures, given.quadrants), tmp_path, "recall")
    assert len(bars(given.measures, given.quadrants, "bm25")["row"].unique()) == 40
    for name in ("quadrants", "recall"):
        assert "\x1b" not in (tmp_path / f"{name}.svg").read_text(encoding="utf-8")


def test_figures_of_a_study_without_quadrants_say_so(tmp_path: Path) -> None:
    results, files, _ = written(tmp_path)
    params = DrawFiguresParams(figures=("quadrants", "recall"))
    paths = Paths(str(tmp_path / "resources"), str(tmp_path / "results"), "made-up")
    draw_figures(params, paths, *files[:2], None, tmp_path)
    for name in params.figures:
        assert "whether passages hold the answers" in (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
    record = {"cells": [{**vars(results[0].cell), **asdict(counted())}]}
    write_json(tmp_path / "diagnosis.json", record)
    known = load_quadrants(tmp_path / "diagnosis.json")
    for chart in (quadrants_chart, recall_chart):
        assert "whether passages hold" not in json.dumps(chart(Measures.load(*files[:2]), known).to_dict())
