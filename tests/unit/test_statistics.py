"""Intervals and p-values: known closed forms, scipy's tests, and invariants."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from retrotune.scoring.resampling import Pairs, bootstrap_p, permutation_p
from retrotune.scoring.statistics import (
    Spread,
    Stratum,
    cluster_of,
    estimate,
    holm,
    run_spread,
    score_estimate,
    together,
)

SCORES = st.lists(st.integers(0, 4).map(lambda n: 25.0 * n), min_size=3, max_size=30)


def column(scores: list[float]) -> list[list[float]]:
    return [[score] for score in scores]


@given(SCORES)
def test_single_questions_are_students_t_interval(scores: list[float]) -> None:
    found = score_estimate(column(scores), range(len(scores)))
    assert found.value == pytest.approx(np.mean(scores))
    error = np.std(scores, ddof=1) / math.sqrt(len(scores))
    assert found.se == pytest.approx(error)
    if error > 1e-6:
        low, high = stats.t.interval(0.95, len(scores) - 1, np.mean(scores), error)
        assert found.interval() == pytest.approx((max(low, 0), min(high, 100)))
        expected = stats.ttest_1samp(scores, 30.0).pvalue
        assert found.p_value(30.0) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_questions_of_a_document_count_as_one() -> None:
    scores = [0.0, 100.0, 100.0, 0.0]
    alone = score_estimate(column(scores), range(4))
    repeated = score_estimate(column(scores * 5), ["a", "b", "c", "d"] * 5)
    assert repeated.value == alone.value
    assert repeated.interval() == pytest.approx(alone.interval())
    as_if_independent = score_estimate(column(scores * 5), range(20)).interval()
    assert as_if_independent is not None
    assert as_if_independent[1] - as_if_independent[0] < 60 < 100  # 20 questions would say far more


def test_documents_of_unequal_size_weigh_by_their_questions() -> None:
    # left-out means: 100/2, 0, 100/3 of documents with 1, 2 and 1 questions... by hand
    scores, documents = [100.0, 0.0, 0.0, 100.0], ["a", "b", "b", "c"]
    found = score_estimate(column(scores), documents)
    left_out = np.array([100 / 3, 100.0, 100 / 3])
    assert found.value == 50
    assert found.se == pytest.approx(math.sqrt(2 / 3 * ((left_out - left_out.mean()) ** 2).sum()))


def test_a_function_of_means_is_the_function_of_the_means() -> None:
    rng = np.random.default_rng(0)
    parts_QP = 100 * rng.random((50, 3))
    found = score_estimate(parts_QP, range(50), "geometric")
    assert found.value == pytest.approx(stats.gmean(parts_QP.mean(axis=0)))
    # the delta method: the gradient of the geometric mean at the means
    means_P = parts_QP.mean(axis=0)
    gradient_P = found.value / 3 / means_P
    expected = math.sqrt(gradient_P @ np.cov(parts_QP.T) @ gradient_P / 50)
    assert found.se == pytest.approx(expected, rel=0.02)


def test_a_part_that_is_zero_everywhere_makes_the_geometric_mean_zero() -> None:
    found = score_estimate([[50.0, 0.0], [100.0, 0.0]] * 5, range(10), "geometric")
    assert found.value == 0
    low, high = found.interval() or (None, None)
    assert (low, high) == (0, pytest.approx(100 * (1 - 0.025 ** (1 / 10))))


@pytest.mark.parametrize("score", [0.0, 100.0])
def test_scores_that_are_all_alike_have_the_binomial_bound(score: float) -> None:
    found = score_estimate(column([score] * 150), range(150))
    interval = stats.binomtest(150 if score else 0, 150).proportion_ci(method="exact")
    assert found.interval() == pytest.approx((100 * interval.low, 100 * interval.high))
    assert found.detectable() is None


def test_one_document_says_nothing_of_spread() -> None:
    found = score_estimate(column([0.0, 100.0]), ["a", "a"])
    assert found.interval() is None
    assert found.p_value() is None


def test_identical_arms_differ_by_nothing_that_is_known_exactly() -> None:
    stratum = Stratum.of(np.array([[[0.0], [100.0], [100.0]]] * 2), range(3))
    found = estimate([stratum], [np.array([[1.0, -1.0]])])
    assert found.value == 0
    low, high = found.interval() or (0, 0)
    assert -100 < low < 0 < high < 100
    assert found.p_value() == 1
    for level in (0.5, 0.9, 0.95):
        bounds = found.interval(level)
        assert bounds is not None
        assert [found.p_value(bound) for bound in bounds] == pytest.approx([1 - level] * 2), "p is of the interval"


def test_the_average_of_datasets_adds_their_variances() -> None:
    rng = np.random.default_rng(1)
    scores = [100 * rng.random(size) for size in (12, 40)]
    strata = [Stratum.of(values[None, :, None], range(len(values))) for values in scores]
    found = estimate(strata, [np.array([[0.5]])] * 2)
    errors = [np.var(values, ddof=1) / len(values) for values in scores]
    assert found.value == pytest.approx(np.mean([values.mean() for values in scores]))
    assert found.se == pytest.approx(math.sqrt(sum(errors) / 4))
    # Welch and Satterthwaite, as scipy has them for the difference of the same samples
    welch = stats.ttest_ind(scores[0], scores[1], equal_var=False)
    assert found.spreads[0].df == pytest.approx(welch.df)


def test_runs_of_one_row_take_students_t_of_their_number() -> None:
    constant = Stratum.of(np.full((3, 10, 1), 40.0) + np.array([0.0, 10.0, 20.0])[:, None, None], range(10))
    spread = run_spread([40.0, 50.0, 60.0])
    assert spread is not None
    found = estimate([constant], [np.full((1, 3), 1 / 3)], [spread])
    expected = stats.t.interval(0.95, 2, 50, 10 / math.sqrt(3))
    assert found.interval() == pytest.approx(expected)
    assert found.p_value(20) == pytest.approx(stats.ttest_1samp([40, 50, 60], 20).pvalue, rel=1e-6)
    assert run_spread([40.0]) is None


@given(st.lists(st.tuples(st.floats(0.01, 10), st.integers(1, 50)), min_size=2, max_size=2), st.floats(0.01, 30))
def test_p_and_interval_agree(parts: list[tuple[float, int]], value: float) -> None:
    base = score_estimate(column([0.0, 100.0]), range(2))
    spreads = tuple(Spread(variance, df) for variance, df in parts)
    found = type(base)(value, spreads, 9, 9, -1000, 1000)
    p = found.p_value()
    assert p is not None
    if 1e-9 < p < 0.999:
        low, _ = found.interval(1 - p) or (0, 0)
        assert low == pytest.approx(0, abs=1e-3 * value)


def test_spreads_of_one_kind_share_their_degrees_of_freedom() -> None:
    assert together([Spread(2.0, 4), Spread(2.0, 4)]) == Spread(4.0, 8.0)
    assert together([Spread(3.0, 5), Spread(0.0, 7)]) == Spread(3.0, 5.0)


def test_detectable_difference_is_that_of_a_paired_t_test() -> None:
    rng = np.random.default_rng(2)
    first, second = 100 * rng.random(60), 100 * rng.random(60)
    stratum = Stratum.of(np.stack([first, second])[:, :, None], range(60))
    found = estimate([stratum], [np.array([[1.0, -1.0]])])
    detectable = found.detectable()
    assert detectable is not None
    # simulated: differences of this spread around the detectable one are found in four of five studies
    error = np.std(first - second, ddof=1)
    simulated = detectable + error * rng.standard_normal((4000, 60))
    share = (stats.ttest_1samp(simulated, 0, axis=1).pvalue < 0.05).mean()
    assert share == pytest.approx(0.8, abs=0.02)


def test_holm_against_an_independent_reckoning() -> None:
    p_values = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
    # sorted 0.005 0.01 0.03 0.04 times 4 3 2 1, never falling
    found = holm(p_values)
    assert {name: p for name, (p, _) in found.items()} == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    levels = {name: level for name, (_, level) in found.items()}
    # d is tested at 0.05 / 4, a at 0.05 / 3, and what is not rejected at 0.05 / 2
    assert levels == pytest.approx({"d": 1 - 0.05 / 4, "a": 1 - 0.05 / 3, "c": 1 - 0.05 / 2, "b": 1 - 0.05 / 2})
    assert holm({}) == {}


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=8))
def test_holm_never_lowers_a_p_value_nor_changes_their_order(p_values: dict[str, float]) -> None:
    found = holm(p_values)
    assert list(found) == list(p_values)
    assert all(p_values[name] <= p <= 1 for name, (p, _) in found.items())
    order = sorted(p_values, key=lambda name: p_values[name])
    assert [found[name][0] for name in order] == sorted(found[name][0] for name in order)


def test_clusters_of_documents_and_of_questions_differ() -> None:
    assert cluster_of("x", None) != cluster_of("y", None)
    assert cluster_of("x", "d") == cluster_of("y", "d") != cluster_of("d", None)


def exact_permutation_p(difference_G: np.ndarray) -> float:
    """Over all assignments of signs."""
    observed = abs(difference_G.sum())
    effects = [abs((difference_G * signs).sum()) for signs in product((1, -1), repeat=len(difference_G))]
    return float(np.mean([effect >= observed - 1e-9 for effect in effects]))


def test_permutation_against_all_assignments() -> None:
    rng = np.random.default_rng(3)
    documents = np.arange(24) % 8
    scores = 100.0 * (rng.random((2, 24, 1)) < np.array([0.8, 0.4])[:, None, None])
    stratum = Stratum.of(scores, documents.tolist())
    exact = exact_permutation_p(stratum.sums_CGP[0, :, 0] - stratum.sums_CGP[1, :, 0])
    found = permutation_p([stratum], [Pairs(np.array([0]), np.array([1]), np.array([1.0]))], 20_000)
    assert found == pytest.approx(exact, abs=0.01)
    assert 0.001 < exact < 0.5


def test_permutation_of_a_function_of_means_against_all_assignments() -> None:
    rng = np.random.default_rng(4)
    parts_CQP = 100 * rng.random((2, 9, 3))
    parts_CQP[1] *= 0.6
    stratum = Stratum.of(parts_CQP, range(9), "geometric")

    def effect(swap_G: tuple[int, ...]) -> float:
        swapped = np.array(swap_G, dtype=bool)[:, None]
        first, second = np.where(swapped, parts_CQP[1], parts_CQP[0]), np.where(swapped, parts_CQP[0], parts_CQP[1])
        return float(stats.gmean(first.mean(axis=0)) - stats.gmean(second.mean(axis=0)))

    observed = abs(effect((0,) * 9))
    exact = np.mean([abs(effect(swap)) >= observed - 1e-9 for swap in product((0, 1), repeat=9)])
    found = permutation_p([stratum], [Pairs(np.array([0]), np.array([1]), np.array([1.0]))], 20_000)
    assert found == pytest.approx(exact, abs=0.01)


def test_bootstrap_agrees_with_students_t_on_many_clusters() -> None:
    rng = np.random.default_rng(5)
    scores = 100 * rng.random((2, 400, 1)) + np.array([4.0, 0.0])[:, None, None]
    stratum = Stratum.of(scores, range(400))
    weights = [np.array([[1.0, -1.0]])]
    expected = stats.ttest_rel(scores[0, :, 0], scores[1, :, 0]).pvalue
    assert bootstrap_p([stratum], weights, 0.0, 20_000) == pytest.approx(expected, abs=0.015)
    assert bootstrap_p([stratum], weights, float(estimate([stratum], weights).value), 200) == 1
    assert bootstrap_p([stratum], weights, 50.0, 400) == pytest.approx(1 / 401)


def test_resampling_is_the_same_for_the_same_seed() -> None:
    stratum = Stratum.of(100 * np.random.default_rng(6).random((2, 30, 1)), range(30))
    pairs = [Pairs(np.array([0]), np.array([1]), np.array([1.0]))]
    found = [permutation_p([stratum], pairs, 300, seed) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


def test_the_least_of_several_combinations() -> None:
    scores = np.array([[50.0, 70.0, 60.0], [40.0, 60.0, 50.0], [45.0, 10.0, 20.0]])[:, :, None]
    stratum = Stratum.of(scores, range(3))
    weights = [np.array([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]])]
    found = estimate([stratum], weights)
    assert found.means_K == pytest.approx((10, 25))
    assert found.value == pytest.approx(10)
    assert (found.lowest, found.highest) == (-100, 100)
