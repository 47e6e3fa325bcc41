"""Sheets, combinations of cells with their runs, and two arms on the same questions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scored_cases import DOCUMENTS, QUESTIONS, collected, score_cells, study

from retrotune.cli import main
from retrotune.errors import ConfigError, ResultError
from retrotune.report.gathering.collect import read_cells, runs_of
from retrotune.report.judging.comparison import as_text, compare
from retrotune.runtime.files import write_text
from retrotune.scoring.contrasts import Runs, difference, mean_of, outcome
from retrotune.scoring.sheets import Sheet, make_sheet
from retrotune.study.cells import Cell
from retrotune.study.config import Config

PARAMETERS = {"gpt-s": 1000, "gpt-s2": 1000, "retro-s": 1100, "retro-s2": 1100}
MODELS = {
    "gpt-s": {"family": "gpt", "size": "s"},
    "retro-s": {"family": "retro", "size": "s"},
    "gpt-s2": {"family": "gpt", "size": "s", "replicate_of": "gpt-s"},
    "retro-s2": {"family": "retro", "size": "s", "replicate_of": "retro-s"},
}
PLAIN = {name: entry for name, entry in MODELS.items() if "2" not in name}


def right_until(counts: dict[str, int]) -> Any:
    """Each model answers its first questions right, by number."""
    return lambda cell, number: "right one" if number < counts[cell.model] else "wrong"


@pytest.fixture
def scored(tmp_path: Path) -> Config:
    config = study(tmp_path, PLAIN)
    score_cells(config, right_until({"gpt-s": 10, "retro-s": 30}), PARAMETERS)
    return config


def test_collected_sheets_hold_what_was_scored(scored: Config, tmp_path: Path) -> None:
    results, sheets = collected(scored, tmp_path / "tables")
    assert set(sheets) == {"nq", "narrativeqa"}
    for result in results:
        sheet = sheets[result.dataset]
        values = sheet.of_questions(result.cell)
        assert len(values) == QUESTIONS
        assert values.mean() == pytest.approx(result.primary and result.primary["value"])
    assert len(set(sheets["narrativeqa"].clusters)) == DOCUMENTS
    assert len(set(sheets["nq"].clusters)) == QUESTIONS


def test_an_arm_against_another(scored: Config) -> None:
    found = compare(scored, read_cells(scored), "family=retro,method=lora", "family=gpt,method=lora")
    nq, tales, average = found.lines
    assert (nq.first, nq.second, nq.difference) == pytest.approx((75, 25, 50))
    assert (nq.wins, nq.ties, nq.losses) == (20, 20, 0)
    assert (nq.questions, nq.documents) == (QUESTIONS, QUESTIONS)
    differences = np.array([100.0] * 20 + [0.0] * 20)
    low, high = stats.t.interval(0.95, 39, 50, differences.std(ddof=1) / np.sqrt(40))
    assert (nq.low, nq.high) == pytest.approx((low, high))
    assert nq.p == pytest.approx(1 / 501)  # no swap of 500 comes near
    assert (tales.questions, tales.documents) == (QUESTIONS, DOCUMENTS)
    assert average.dataset == "Average"
    assert average.difference == pytest.approx(50)
    assert average.questions == 2 * QUESTIONS
    assert all(line.p_holm is not None and line.p is not None and line.p_holm >= line.p for line in found.lines)
    assert any("One run" in note for note in found.notes)
    assert len(found.changed) == 10
    assert {item["first"] for item in found.changed} == {"right one"}
    assert found.changed[0]["difference"] == 100


def test_cells_by_name_and_a_pair_that_is_not_done(tmp_path: Path) -> None:
    config = study(tmp_path, PLAIN)
    say = right_until({"gpt-s": 10, "retro-s": 30})
    score_cells(
        config, lambda cell, n: None if (cell.model, cell.dataset) == ("gpt-s", "nq") else say(cell, n), PARAMETERS
    )
    results = read_cells(config)
    with pytest.raises(ResultError, match="missing: gpt-s/lora/nq/none/seed0"):
        compare(config, results, "retro-s/lora/nq/none/seed0", "gpt-s/lora/nq/none/seed0")
    found = compare(config, results, "model=retro-s,method=lora", "model=gpt-s,method=lora")
    assert [line.dataset for line in found.lines] == ["narrativeqa"]
    assert "1 of 2 pairs are left out" in found.notes[0]


def test_several_of_one_side_are_each_paired_with_the_other(tmp_path: Path) -> None:
    config = study(tmp_path, PLAIN)
    counts = {"zeroshot": 10, "lora": 30, "ptuning": 20}
    score_cells(config, lambda cell, n: "right one" if n < counts[cell.method] else "x", PARAMETERS)
    found = compare(config, read_cells(config), "method=lora+ptuning", "method=zeroshot")
    nq = found.lines[0]
    assert nq.pairs == 4  # of two models
    assert (nq.first, nq.second, nq.difference) == pytest.approx((62.5, 25, 37.5))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("modle=gpt-s", "model=retro-s", "did you mean 'model'"),
        ("model=gpt", "model=retro-s", "did you mean 'gpt-s'"),
        ("model=gpt-s", "model=gpt-s", "select the same cells"),
        ("model=gpt-s,model=retro-s", "model=gpt-s", "given twice"),
        ("gpt-s/lora/nq/none/seed1", "model=gpt-s", "seed 'seed1'"),
        ("model=gpt-s,family=retro", "model=gpt-s", "no cell of the study is all of that"),
        ("model=gpt-s,method=lora,dataset=nq", "model=gpt-s,method=lora", "the same datasets"),
    ],
)
def test_arms_that_cannot_be_compared(scored: Config, first: str, second: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compare(scored, read_cells(scored), first, second)


def test_different_questions_are_compared_only_when_asked(scored: Config) -> None:
    results = read_cells(scored)
    cell = next(result.cell for result in results if (result.model, result.method) == ("gpt-s", "lora"))
    scores = Path(scored.results_dir) / "made-up/cells" / cell.name / "scores.jsonl"
    lines = scores.read_text(encoding="utf-8").splitlines()
    write_text(scores, "\n".join(lines[:25]) + "\n")
    arms = "family=retro,method=lora,dataset=nq", "family=gpt,method=lora,dataset=nq"
    with pytest.raises(ResultError, match="40 and 25, 25 of them in common|25 and 40, 25 of them in common"):
        compare(scored, results, *arms)
    found = compare(scored, results, *arms, common=True)
    assert found.lines[0].questions == 25
    assert any("25 questions in common of up to 40" in note for note in found.notes)


def test_no_question_in_common() -> None:
    cells = [Cell("a", "b", "nq", "none", seed) for seed in (0, 1)]
    rows = {cell: ([f"q{cell.seed}"], [None], np.ones((1, 1))) for cell in cells}
    with pytest.raises(ResultError, match="no question of nq in common"):
        make_sheet("nq", "f1", rows, common=True)


def test_the_order_of_answers_does_not_matter() -> None:
    first, second = (Cell("a", "b", "nq", "none", seed) for seed in (0, 1))
    rows = {
        first: (["x", "y"], ["d", "e"], np.array([[1.0], [2.0]])),
        second: (["y", "x"], ["e", "d"], np.array([[20.0], [10.0]])),
    }
    sheet = make_sheet("nq", "f1", rows)
    assert sheet.of_questions(second).tolist() == [10, 20]
    assert sheet.clusters == ("document d", "document e")


def test_the_command(scored: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "study.json"
    file.write_text(scored.model_dump_json(exclude_unset=True), encoding="utf-8")
    study_option = ["--configfile", str(file)]
    assert main(["compare", "method=lora,model=retro-s", "method=lora,model=gpt-s", *study_option]) == 0
    printed = capsys.readouterr().out
    assert "+50.0" in printed
    assert "20 / 20 / 0" in printed
    assert "A: 'right one'" in printed
    assert main(["compare", "model=retro-s", "model=gpt-s", *study_option, "--json", "--questions", "0"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["changed"] == []
    assert len(found["lines"]) == 3
    assert main(["compare", "model=x", "model=gpt-s", *study_option]) == 1
    assert "is not in the study" in capsys.readouterr().err


def sheet_of(scores: dict[Cell, float], questions: int = 20) -> Sheet:
    """Cells whose questions all have the same score, but for noise that all cells share."""
    noise_Q = np.tile([-1.0, 1.0], questions // 2)
    parts_CQP = np.stack([(score + noise_Q)[:, None] for score in scores.values()])
    names = tuple(map(str, range(questions)))
    return Sheet("nq", "f1", tuple(scores), names, names, parts_CQP)


def cell(model: str, method: str = "lora", seed: int = 0) -> Cell:
    return Cell(model, method, "nq", "none", seed)


def test_seeds_of_a_row_vary_by_students_t() -> None:
    scores = {cell("a", seed=0): 40.0, cell("a", seed=1): 50.0, cell("a", seed=2): 60.0}
    runs = Runs.of({"a": None})
    found = outcome({"nq": sheet_of(scores)}, [mean_of(list(scores))], runs)
    assert found.num_runs == 3
    questions, between = found.estimate.spreads
    assert between.variance == pytest.approx(100 / 3)
    assert between.df == 2
    assert questions.variance == pytest.approx(20 / 19 / 20)
    single = outcome({"nq": sheet_of(scores)}, [mean_of([cell("a", seed=0)])], runs)
    assert single.num_runs == 1
    assert len(single.estimate.spreads) == 1


def test_replicates_are_the_runs_where_there_are_some() -> None:
    scores = {cell(model, seed=seed): 40.0 + 10 * (model == "b") + 3 * seed for model in "ab" for seed in (0, 1)}
    runs = Runs.of({"a": None, "b": "a"})
    found = outcome({"nq": sheet_of(scores)}, [mean_of(list(scores))], runs)
    assert found.num_runs == 2
    # the replicates' means are 41.5 and 51.5
    assert found.estimate.spreads[1].variance == pytest.approx(50 / 2)
    assert runs.row(cell("b")) == runs.row(cell("a", seed=5))


def test_a_training_moves_all_its_cells_together() -> None:
    """Two methods on the same base model: their difference does not vary with the base, their mean does."""
    scores = {
        cell(model, method): 40.0 + 10 * place + 5 * (method == "lora")
        for place, model in enumerate("abc")
        for method in ("lora", "ptuning")
    }
    runs, sheets = Runs.of({"a": None, "b": "a", "c": "a"}), {"nq": sheet_of(scores)}
    pairs = [(cell(model), cell(model, "ptuning"), 1 / 3) for model in "abc"]
    gap = outcome(sheets, [difference(pairs)], runs, pairs=pairs, resamples=100)
    assert gap.estimate.value == pytest.approx(5)
    assert gap.estimate.spreads[1].variance == pytest.approx(0)
    whole = outcome(sheets, [mean_of(list(scores))], runs)
    assert whole.estimate.spreads[1].variance == pytest.approx(100 / 3)


def test_rows_of_one_run_borrow_the_spread_of_the_others() -> None:
    scores = {cell("a", seed=0): 40.0, cell("a", seed=1): 60.0, cell("z"): 10.0}
    weights = {cell("a", seed=0): 0.25, cell("a", seed=1): 0.25, cell("z"): 0.5}
    found = outcome({"nq": sheet_of(scores)}, [weights], Runs.of({"a": None, "z": None}))
    assert (found.num_runs, found.borrowed) == (1, pytest.approx(0.5))
    # half of a's mean: variance of its runs (200) / 2 times a quarter; half of z: that of one run times a quarter
    assert found.estimate.spreads[1].variance == pytest.approx(200 / 2 / 4 + 200 / 4)


def test_replicates_in_a_study_are_one_row(tmp_path: Path) -> None:
    config = study(tmp_path, MODELS)
    counts = {"gpt-s": 10, "gpt-s2": 14, "retro-s": 30, "retro-s2": 34}
    score_cells(config, right_until(counts), PARAMETERS)
    results = read_cells(config)
    assert runs_of(results).number_of == {"gpt-s": 0, "retro-s": 0, "gpt-s2": 1, "retro-s2": 1}
    found = compare(config, results, "family=retro,dataset=nq", "family=gpt,dataset=nq", num_questions=0)
    (line,) = found.lines
    assert (line.pairs, line.num_runs) == (6, 2)
    assert line.difference == pytest.approx(50)
    assert not found.notes
    assert "Student's t" in as_text(found)
    # the runs of each side are 10 points apart: each mean of two varies by 5 points, with one degree of freedom
    assert line.p == pytest.approx(0.02, abs=0.005)
    without = compare(config, results, "model=retro-s,dataset=nq", "model=gpt-s,dataset=nq").lines[0]
    assert (without.p, without.num_runs) == (pytest.approx(1 / 501), 1)


def test_kinds_of_methods_are_attributes(scored: Config) -> None:
    by_kind = compare(
        scored, read_cells(scored), "method_kind=lora,model=retro-s", "method_kind=zeroshot,model=retro-s"
    )
    by_name = compare(scored, read_cells(scored), "method=lora,model=retro-s", "method=zeroshot,model=retro-s")
    assert by_kind.lines == by_name.lines
