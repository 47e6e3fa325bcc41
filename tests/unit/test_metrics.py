"""Scores of single answers: cases with known values, agreement with rouge-score, and properties."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from retrotune.data.scores import METRICS
from retrotune.errors import DataError
from retrotune.scoring.metrics import (
    exact_match,
    multiple_choice,
    normalize,
    rouge,
    score_prediction,
    token_f1,
    token_f1_first,
)
from retrotune.scoring.statistics import bootstrap_interval


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat, a dog & an\tEEL!", "cat dog eel"),
        ("Theater", "theater"),
        ("“Don’t”—she said", "dontshe said"),
        ("１９９９", "1999"),
        ("Ὀδυσσεύς", "ὀδυσσεύς"),
        ("U.S.A.", "usa"),
        ("the", ""),
    ],
)
def test_normalization(text: str, expected: str) -> None:
    assert normalize(text) == expected


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("the red fox", ["red fox"], 100.0),
        ("red fox jumps", ["red fox"], 80.0),  # precision 2/3, recall 1
        ("fox fox", ["fox"], 200 / 3),  # a repeated token counts once
        ("blue", ["red", "blue sky"], 200 / 3),  # best of several answers
        ("blue", ["red"], 0.0),
        ("", ["red"], 0.0),
        ("the", ["a"], 100.0),  # both empty after normalization
        ("münchen 東京", ["東京"], 200 / 3),
    ],
)
def test_token_f1(prediction: str, answers: list[str], expected: float) -> None:
    assert token_f1(prediction, answers) == pytest.approx(expected)


def test_f1_of_the_first_answer_ignores_the_others() -> None:
    assert token_f1_first("blue sky", ["red", "blue sky"]) == 0
    assert token_f1("blue sky", ["red", "blue sky"]) == 100


def test_exact_match_takes_any_answer_and_is_all_or_nothing() -> None:
    assert exact_match("The Beatles.", ["Queen", "beatles"]) == 100
    assert exact_match("Beatles band", ["beatles"]) == 0


OPTIONS = ["He left town", "A", "The (B) plan", "Nobody knows"]


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("he left town.", OPTIONS[0], 100),
        ("(D)", OPTIONS[3], 100),
        ("D", OPTIONS[3], 100),
        ("d.", OPTIONS[3], 100),
        ("(D) Nobody knows", OPTIONS[3], 100),
        ("(C) Nobody knows", OPTIONS[3], 0),  # the letter decides
        ("Z", OPTIONS[3], 0),
        ("Did he leave", OPTIONS[3], 0),  # a word that begins with a letter is no letter
        ("", OPTIONS[3], 0),
    ],
)
def test_multiple_choice(prediction: str, answer: str, expected: float) -> None:
    assert multiple_choice(prediction, [answer], OPTIONS) == expected


def test_an_option_that_looks_like_a_letter_is_read_as_the_option() -> None:
    options = ["alpha", "beta", "B"]
    assert multiple_choice("B", ["B"], options) == 100
    assert multiple_choice("B", ["beta"], options) == 0


def test_rouge_agrees_with_the_package_on_the_best_reference() -> None:
    prediction = "the committee discussed funding of rural schools"
    answers = ["nothing alike", "committees discuss the funding for schools in rural areas"]
    expected = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True).score(answers[1], prediction)
    found = rouge(prediction, answers)
    values = [100 * expected[name].fmeasure for name in ("rouge1", "rouge2", "rougeL")]
    assert [found[name] for name in ("rouge1", "rouge2", "rougeL")] == pytest.approx(values)
    assert values[0] > 50  # the stemmer joins committee and committees
    assert found["rouge_geometric"] == pytest.approx(math.prod(values) ** (1 / 3))
    assert found["rouge_arithmetic"] == pytest.approx(sum(values) / 3)


def test_means_of_rouge_on_known_values() -> None:
    # of 4 words on both sides 3 are shared, and in the same order; of 3 bigrams 1 is
    found = rouge("one two four five", ["one two three four"])
    assert found["rouge1"] == pytest.approx(75)
    assert found["rouge2"] == pytest.approx(100 / 3)
    assert found["rougeL"] == pytest.approx(75)
    assert found["rouge_geometric"] == pytest.approx((75 * 75 * 100 / 3) ** (1 / 3))
    assert rouge("one", ["one"])["rouge_geometric"] == 0  # a single word has no bigram


def test_score_prediction_has_every_metric_that_applies() -> None:
    scores = score_prediction("B", ["beta"], ["alpha", "beta"])
    assert set(scores) == set(METRICS)
    assert scores["multiple_choice"] == 100
    assert scores["exact_match"] == 0
    assert set(score_prediction("x", ["x"])) == set(METRICS) - {"multiple_choice"}
    assert score_prediction("red fox", ["fox", "red"])["f1"] == 66.6667  # four digits are kept
    with pytest.raises(DataError, match="without answers"):
        score_prediction("x", [])


@given(st.text(max_size=40), st.lists(st.text(max_size=40), min_size=1, max_size=3), st.lists(st.text(), max_size=4))
def test_scores_stay_in_range_for_any_text(prediction: str, answers: list[str], options: list[str]) -> None:
    scores = score_prediction(prediction, answers, options)
    assert all(0 <= value <= 100 for value in scores.values())
    assert scores["f1"] >= scores["f1_first"]
    assert scores["f1"] >= scores["exact_match"]


@given(st.text(min_size=1, max_size=40))
def test_an_answer_matches_itself(text: str) -> None:
    scores = score_prediction(text, [text])
    assert scores["f1"] == scores["exact_match"] == 100


def test_bootstrap_interval_of_a_coin() -> None:
    scores = [0.0, 100.0] * 200
    interval = bootstrap_interval(scores, samples=1000, seed=3)
    assert interval is not None
    low, high = interval
    # the standard error of the mean is 50 / sqrt(400) = 2.5
    assert low == pytest.approx(50 - 1.96 * 2.5, abs=0.6)
    assert high == pytest.approx(50 + 1.96 * 2.5, abs=0.6)
    assert bootstrap_interval(scores, samples=1000, seed=3) == (low, high)


def test_bootstrap_interval_narrows_with_questions_and_vanishes_without_spread() -> None:
    few = bootstrap_interval([0.0, 100.0] * 10, samples=500)
    many = bootstrap_interval([0.0, 100.0] * 1000, samples=500)
    assert few is not None
    assert many is not None
    assert many[1] - many[0] < (few[1] - few[0]) / 5
    assert bootstrap_interval([40.0] * 8, samples=100) == (40.0, 40.0)


def test_the_interval_is_that_of_so_many_seeded_resamples() -> None:
    scores = np.array([0.0, 12.5, 50.0, 50.0, 100.0])
    means = scores[np.random.default_rng(7).integers(0, 5, (120, 5))].mean(axis=1)
    assert bootstrap_interval(scores.tolist(), 120, seed=7) == pytest.approx(tuple(np.percentile(means, (2.5, 97.5))))
    assert bootstrap_interval([0.0, 100.0], samples=300) == (0.0, 100.0)


def test_no_interval_without_resamples_or_with_one_question() -> None:
    assert bootstrap_interval([1.0, 2.0], samples=0) is None
    assert bootstrap_interval([1.0], samples=100) is None
