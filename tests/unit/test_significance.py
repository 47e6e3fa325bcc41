"""Marks of a table: the best of each column, and what paired tests do not tell from it."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from report_cases import OWN, drawn, exact, measures, result

from retrotune.report.tables.grid import comparison_table, long_table
from retrotune.report.tables.significance import resamples_for
from retrotune.report.tables.table import Measured, Table
from retrotune.scoring.resampling import Pairs, permutation_p, permutation_ps
from retrotune.scoring.statistics import Stratum


def test_marks_are_those_of_paired_tests(tmp_path: Path) -> None:
    """Against 24 right answers: one wrong is no difference, 20 wrong are one; three tests, by Holm."""
    rights = {"full": range(24), "adapter": range(23), "lora": range(4), "zeroshot": ()}
    results = [result("gpt-a", method, "nq") for method in rights]
    scores = {item.cell: exact(*rights[item.method]) for item in results}
    table = comparison_table(measures(tmp_path, results, scores), 100)
    assert table.best == {(0, 3)}
    assert table.near == {(1, 3)}
    assert "3 tests" in table.legend
    assert "240 resamples" in table.legend, "no fewer than its tests need"


def test_more_tests_ask_for_more_difference(tmp_path: Path) -> None:
    """Six of 24 answers wrong: p = 2^-5 alone, which is no longer significant among other tests."""
    few = {"full": range(24), "adapter": range(18)}
    many = {**few, **{f"m{number}": range(23 - number % 2) for number in range(30)}}
    for rights, near in ((few, False), (many, True)):
        results = [result("gpt-a", method, "nq", kind="lora") for method in rights]
        scores = {item.cell: exact(*rights[item.method]) for item in results}
        table = comparison_table(measures(tmp_path, results, scores), 20_000)
        assert ((1, 3) in table.near) == near


def test_a_column_with_a_single_value_or_equal_ones_marks_none(tmp_path: Path) -> None:
    one = result("gpt-a", "lora", "nq")
    other = result("gpt-a", "zeroshot", "nq", status="missing")
    assert comparison_table(measures(tmp_path, [one, other]), 100).best == set()
    both = [one, result("gpt-a", "zeroshot", "nq")]
    table = comparison_table(measures(tmp_path, both, {item.cell: exact(3) for item in both}), 100)
    assert table.best == table.near == set()
    assert table.notes_with("bold", "italic") == table.notes, "and has no legend"


def test_what_looks_alike_is_marked_alike() -> None:
    table = Table("t", ["row", "a", "b"], [["x", 0.01, 1.0], ["y", 0.02, 2.0], ["z", None, 2.01]], 1, [".1f", ".1f"])
    table.mark_best()
    assert table.best == {(1, 2), (2, 2)}
    single = Table("t", ["row", "a"], [["x", 1.0], ["y", "failed"], ["z", None]], 1, [".1f"])
    single.mark_best()
    assert single.best == set()


def test_rows_of_several_runs_are_compared_by_students_t(tmp_path: Path) -> None:
    """Two trainings differ by 100 and by 8 points: 24 questions would be enough, two trainings are not."""
    cells = [result("gpt-a", method, "nq", "bm25", seed) for method in ("lora", "zeroshot") for seed in (0, 1)]
    scores = {cell.cell: exact(*range(count)) for cell, count in zip(cells, (24, 12, 0, 10), strict=True)}
    table = comparison_table(measures(tmp_path, cells, scores), 100)
    assert table.best == {(0, 3)}
    assert table.near == {(1, 3)}
    assert "(Student's t over several runs)" in table.legend
    assert "resamples" not in table.legend


def test_questions_of_one_document_are_not_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("report_cases.OWN", [(question, "d") for question, _ in OWN])
    monkeypatch.setitem(__import__("report_cases").QUESTIONS, "qmsum", [(question, "d") for question, _ in OWN])
    results = [result("gpt-a", method, "qmsum") for method in ("lora", "zeroshot")]
    flat = {item.cell: {part: [value] * 24 for part in ("rouge1", "rouge2", "rougeL")}
            for item, value in zip(results, (40.0, 4.0), strict=True)}  # fmt: skip
    found = measures(tmp_path, results, flat)
    table = comparison_table(found, 100)
    assert (table.best, table.near) == ({(0, 3)}, set())
    assert table.legend == "The best of each column is {best}."
    assert table.rows[0][3] == Measured(pytest.approx(40.0), None, None)
    long = {row[3]: row for row in long_table(found, table).rows if row[5] == "qmsum"}
    assert [long["zeroshot"][-2:], long["lora"][-2:]] == [[False, None], [True, True]]


def test_too_few_documents_are_named(tmp_path: Path) -> None:
    results = [result("gpt-a", f"m{number}", "qmsum", kind="lora") for number in range(9)]
    scores = {item.cell: drawn("same", "qmsum", place / 10) for place, item in enumerate(results)}
    legend = comparison_table(measures(tmp_path, results, scores), 100).legend
    assert legend.endswith(
        "For so many tests 8 documents (qmsum) are too few: no difference on them can be significant."
    )
    open_ones = [result("gpt-a", item.method, "nq", kind="lora") for item in results]
    assert "too few" not in comparison_table(measures(tmp_path, open_ones), 100).legend


@pytest.mark.parametrize("tests", [1, 2, 50, 287, 5000])
def test_resamples_can_show_a_difference_among_so_many_tests(tests: int) -> None:
    resamples = resamples_for(tests, 10)
    assert tests / (1 + resamples) < 0.05 / 3
    assert resamples_for(tests, 10**7) == 10**7


@pytest.mark.parametrize("parts", [1, 3])
def test_tests_that_share_coins_have_the_p_values_that_they_have_alone(parts: int) -> None:
    rng = np.random.default_rng(4)
    strata = [
        Stratum.of(
            rng.uniform(0, 100, (4, 12, parts)), [n // size for n in range(12)], "geometric" if parts > 1 else "mean"
        )
        for size in (1, 2)
    ]
    one, none = np.array([1.0]), np.array([], dtype=int)
    tests = [
        [Pairs(np.array([0]), np.array([other]), one), Pairs(np.array([0]), np.array([other]), one)]
        for other in (1, 2, 3)
    ] + [[Pairs(np.array([1]), np.array([2]), one), Pairs(none, none, np.array([]))]]
    together = permutation_ps(strata, tests, 500, seed=3)
    assert together[:3] == [permutation_p(strata, pairs, 500, seed=3) for pairs in tests[:3]]
    signs = np.array(list(itertools.product((1, -1), repeat=12)))
    if parts == 1:
        moved = (strata[0].sums_CGP[1, :, 0] - strata[0].sums_CGP[2, :, 0]) / 12
        exact_p = (abs(signs @ moved) >= abs(moved.sum()) - 1e-9).mean()
        assert permutation_ps(strata, tests[3:], 20_000)[0] == pytest.approx(exact_p, abs=0.015)


def test_no_empty_note_is_written(tmp_path: Path) -> None:
    unscored = comparison_table(measures(tmp_path, [result("gpt-a", "lora", "nq", status="missing")]), 100)
    assert unscored.notes_with("bold", "italic")[0] == "Scores from 0 to 100, higher is better."
    table = Table("t", ["a"], [], 1, [], notes=["", " said "], legend="{best}")
    assert table.notes_with("bold", "italic") == ["said"]
