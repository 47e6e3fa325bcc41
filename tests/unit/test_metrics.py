"""Scores of single answers: cases worked out on paper, evaluators written a second time, and properties.

The second evaluators follow the published descriptions and share no code with the package.
"""

import math
import re
import string
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.stem.porter import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer

from retrotune.data.corpora.records import BadRecords
from retrotune.data.datasets import SPECS
from retrotune.data.datasets.base import LETTERS, Example, Reference
from retrotune.data.scores import METRICS, ROUGES, STEMMED, combine, parts_of, title_of
from retrotune.errors import DataError
from retrotune.scoring import metrics as scoring
from retrotune.scoring.metrics import (
    PARTS,
    accuracy,
    best_answer,
    choice,
    contains,
    exact_match,
    normalize,
    normalize_triviaqa,
    normalize_unicode,
    rouge,
    score_prediction,
    token_f1,
)
from retrotune.scoring.score import summarize


def scored(prediction: str, answers: Sequence[str], *parts: str, options: Sequence[str] = ()) -> dict[str, float]:
    reference = Reference("q", None, tuple(answers), options=tuple(options))
    return score_prediction(prediction, reference, parts)


# normalization ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "squad", "triviaqa", "kinder"),
    [
        ("The  Cat, a dog & an\tEEL!", "cat dog eel", "cat dog eel", "cat dog eel"),
        ("Theater", "theater", "theater", "theater"),
        ("O'Neill", "oneill", "o neill", "oneill"),
        ("O’Neill", "o’neill", "o neill", "oneill"),
        ("U.S.A.", "usa", "u s", "usa"),  # TriviaQA's last letter stands alone, and is an article
        ("rock_and_roll", "rockandroll", "rock and roll", "rockandroll"),
        ("well-known", "wellknown", "well known", "wellknown"),
        ("1914–18", "1914–18", "1914–18", "191418"),
        ("1914-18", "191418", "1914 18", "191418"),
        ("´twas `so‘", "´twas so‘", "twas so", "\u0301twas so"),  # U+00B4 is compatible with a blank and an accent
        ("“Don’t”—she said", "“don’t”—she said", "“don t”—she said", "dontshe said"),
        ("a–b", "–b", "–b", "ab"),  # an article is a whole word, and a dash no letter
        ("１９９９", "１９９９", "１９９９", "1999"),
        ("Ὀδυσσεύς", "ὀδυσσεύς", "ὀδυσσεύς", "ὀδυσσεύς"),
        ("the", "", "", ""),
    ],
)
def test_normalizations(text: str, squad: str, triviaqa: str, kinder: str) -> None:
    assert (normalize(text), normalize_triviaqa(text), normalize_unicode(text)) == (squad, triviaqa, kinder)


def second_squad(text: str) -> str:
    kept = "".join(char for char in text.lower() if char not in string.punctuation)
    return " ".join(second_words(kept))


def second_triviaqa(text: str) -> str:
    for mark in ["_", *string.punctuation, "\u2018", "\u2019", "\u00b4", "\u0060"]:
        text = text.lower().replace(mark, " ")
    return " ".join(second_words(text))


def second_words(text: str) -> list[str]:
    """Words of a text without the articles: whole runs of word characters, whatever stands beside them."""
    runs = [" " if run in ("a", "an", "the") else run for run in re.findall(r"\w+|\W", text)]
    return "".join(runs).split()


def second_f1(prediction: str, answer: str, normalization: Callable[[str], str], nothing_left: float) -> float:
    predicted, wanted = normalization(prediction).split(), normalization(answer).split()
    if not predicted and not wanted:
        return nothing_left
    left, shared = list(wanted), 0
    for token in predicted:
        if token in left:
            left.remove(token)
            shared += 1
    if shared == 0:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(wanted)
    return 100 * 2 * precision * recall / (precision + recall)


WORDS = st.lists(
    st.sampled_from(
        ["a", "The", "an", "fox", "Fox", "O’Neill", "U.S.A.", "_", "x_y", "–", "-", "a–b", "’", "anna", "É"]
    )
    | st.text(max_size=3),
    max_size=8,
).map(" ".join)


@given(WORDS, st.lists(WORDS, min_size=1, max_size=3))
def test_scores_are_those_of_the_second_evaluators(prediction: str, answers: list[str]) -> None:
    found = scored(prediction, answers, "exact_match", "f1", "f1_scrolls", "triviaqa_exact_match", "triviaqa_f1")
    expected = {
        "exact_match": 100.0 * any(second_squad(prediction) == second_squad(answer) for answer in answers),
        "f1": max(second_f1(prediction, answer, second_squad, 0) for answer in answers),
        "f1_scrolls": max(second_f1(prediction, answer, second_squad, 100) for answer in answers),
        "triviaqa_exact_match": 100.0 * any(second_triviaqa(prediction) == second_triviaqa(one) for one in answers),
        "triviaqa_f1": max(second_f1(prediction, answer, second_triviaqa, 0) for answer in answers),
    }
    assert found == pytest.approx(expected, abs=1e-4)


# answers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("the red fox", ["red fox"], 100.0),
        ("red fox jumps", ["red fox"], 80.0),  # precision 2/3, recall 1
        ("fox fox", ["fox"], 200 / 3),  # a repeated token counts once
        ("blue", ["red", "blue sky"], 200 / 3),  # best of several answers
        ("blue", ["red"], 0.0),
        ("", ["red"], 0.0),
        ("red", ["the"], 0.0),
        ("münchen 東京", ["東京"], 200 / 3),
    ],
)
def test_token_f1(prediction: str, answers: list[str], expected: float) -> None:
    assert token_f1(prediction, answers) == pytest.approx(expected)
    assert token_f1(prediction, answers, both_empty=100) == pytest.approx(expected)


def test_where_nothing_is_left_of_both_the_evaluators_differ() -> None:
    assert scored("the", ["a"], "f1", "f1_scrolls", "exact_match") == {"f1": 0, "f1_scrolls": 100, "exact_match": 100}


def test_f1_of_the_first_answer_ignores_the_others() -> None:
    assert scored("blue sky", ["red", "blue sky"], "f1_first", "f1") == {"f1_first": 0, "f1": 100}


def test_exact_match_takes_any_answer_and_is_all_or_nothing() -> None:
    assert exact_match("The Beatles.", ["Queen", "beatles"]) == 100
    assert exact_match("Beatles band", ["beatles"]) == 0
    assert exact_match("Banana theater", ["anna tea"]) == 0, "articles within words stay"


def test_a_dash_of_another_kind_is_forgiven_by_the_kinder_variant_only() -> None:
    assert scored("1914–18", ["1914-18"], "exact_match", "exact_match_unicode") == {
        "exact_match": 0,
        "exact_match_unicode": 100,
    }


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("It was built in Oslo, I think.", ["Bergen", "Oslo"], 100),
        ("It was built in the Oslo of old", ["Oslo of Old"], 100),
        ("Oslofjord", ["Oslo"], 0),  # whole words only
        ("Oslo", ["Oslo in Norway"], 0),
        ("anything", ["the"], 0),  # nothing is left of the answer
    ],
)
def test_contains(prediction: str, answers: list[str], expected: float) -> None:
    assert contains(prediction, answers) == expected


def test_the_best_annotator_is_the_first_of_equals() -> None:
    assert best_answer("in Oslo", ["Bergen", "Oslo", "in Oslo", "Oslo in"]) == 2
    assert best_answer("Rome", ["Bergen", "Oslo"]) == 0


# choices ------------------------------------------------------------------------------------------------------------

OPTIONS = ("A lighthouse keeper", "A baker", "The mayor", "Nobody at all")


@pytest.mark.parametrize(
    ("prediction", "place"),
    [
        # its text
        ("A baker", 1), ("  a BAKER ", 1), ("baker.", 1), ("**A baker**", 1), ("the mayor", 2),
        # its letter alone
        ("B", 1), ("b", 1), (" D ", 3), ("B.", 1), ("'B'", 1), ("A", 0), ("a", 0),
        # in brackets or Markdown marks
        ("(B)", 1), ("[C]", 2), ("**B**", 1), ("`D`", 3), ("_B_", 1), ("**(B)**", 1), ("(**B**)", 1),
        ("(B) A baker", 1), ("**B** A baker", 1), ("(b) since he baked", 1),
        # before punctuation and a reason
        ("B, because he baked.", 1), ("B. A baker", 1), ("B: he baked", 1), ("B) A baker", 1), ("**B.** He baked", 1),
        ("B - he baked", 1), ("B — he baked", 1), ("B, because A is wrong", 1), ("(B), (B)", 1),
        # the letter decides
        ("(B) The mayor", 1),
        # unparsable
        ("", None), (" ", None), ("Z", None), ("(Z)", None), ("E", None), ("Baking bread", None), ("Did he", None),
        ("a lighthouse", None), ("B because he baked", None), ("U.S. forces", None), ("A.I. did", None), ("B’s", None),
        ("I, the mayor", None), ("the answer is B", None), ("...", None), ("3", None), ("Β", None),
        # two letters name neither
        ("A, B", None), ("(A) or (B)", None), ("A, B and C", None), ("**A** and **B**", None), ("(A)(B)(C)(D)", None),
    ],
)  # fmt: skip
def test_choices(prediction: str, place: int | None) -> None:
    assert choice(prediction, OPTIONS) == place
    for right in range(4):
        found = scored(prediction, [OPTIONS[right]], "accuracy", "parsable", options=OPTIONS)
        assert found == {"accuracy": 100.0 * (place == right), "parsable": 100.0 * (place is not None)}


@pytest.mark.parametrize(
    ("text", "variant", "place"),
    [
        (" B\nQuestion: and then?", "base", 1),
        (" A baker. He baked.", "base", None),  # no option, and options are not cut at a period
        ("The answer is (B).", "instruct", 1),
        ("The answer is B, because he baked.", "instruct", 1),
        ("**B**\n\nHe baked.", "instruct", 1),
    ],
)
def test_choices_in_generated_text(text: str, variant: str, place: int | None) -> None:
    assert choice(SPECS["quality"].prompt_of(variant).postprocess(text), OPTIONS) == place


def test_an_option_that_looks_like_a_letter_is_read_as_the_option() -> None:
    options = ("alpha", "beta", "B")
    assert accuracy("B", ["B"], options) == 100
    assert accuracy("B", ["beta"], options) == 0
    assert choice("(B) A", ("x", "A", "y")) == 1, "the second option's letter before its text"


def test_options_that_normalization_does_not_tell_apart_are_told_apart_by_their_text() -> None:
    options = ("$5", "5%", "A", "the")
    assert [choice(text, options) for text in ("$5", "5%", "5", "A", "The")] == [0, 1, None, 2, 3]
    assert accuracy("the", ["A"], options) == 0
    assert accuracy("Yes", ["yes"], ("Yes", "No", "yes")) == 100, "options with one text are one"


def test_a_right_answer_is_an_option_or_a_letter() -> None:
    assert accuracy("a baker", ["(B)"], OPTIONS) == 100
    assert accuracy("D", ["B", "D"], OPTIONS) == 100
    for wrong in ("A miller", "E", "B, because he baked"):
        with pytest.raises(DataError, match=f"answer '{wrong}' is none of the 4 options"):
            accuracy("B", [wrong], OPTIONS)


# summaries ----------------------------------------------------------------------------------------------------------


def second_rouge(prediction: str, answer: str, stem: Callable[[str], str]) -> tuple[float, float, float]:
    said, wanted = (
        [stem(word) if len(word) > 3 else word for word in re.findall(r"[a-z0-9]+", text.lower())]
        for text in (prediction, answer)
    )

    def f_measure(shared: int, most: int, wanted_most: int) -> float:
        return 200 * shared / (most + wanted_most) if shared else 0.0

    def grams(tokens: list[str], size: int) -> list[tuple[str, ...]]:
        return [tuple(tokens[place : place + size]) for place in range(len(tokens) - size + 1)]

    def shared(size: int) -> float:
        left = grams(wanted, size)
        count = 0
        for gram in grams(said, size):
            if gram in left:
                left.remove(gram)
                count += 1
        return f_measure(count, len(grams(said, size)), len(grams(wanted, size)))

    def longest(one: int, other: int) -> int:
        if (one, other) not in known:
            if one == len(said) or other == len(wanted):
                known[one, other] = 0
            elif said[one] == wanted[other]:
                known[one, other] = 1 + longest(one + 1, other + 1)
            else:
                known[one, other] = max(longest(one + 1, other), longest(one, other + 1))
        return known[one, other]

    known: dict[tuple[int, int], int] = {}
    return shared(1), shared(2), f_measure(longest(0, 0), len(said), len(wanted))


TALK = st.lists(
    st.sampled_from(
        [
            "budgets",
            "budget",
            "discussed",
            "discussing",
            "the",
            "a",
            "meeting",
            "plans",
            "plan,",
            "x1",
            "é",
            "schools—schooling",
        ]
    ),
    max_size=12,
).map(" ".join)


@given(TALK, st.lists(TALK, min_size=1, max_size=3))
def test_rouge_is_that_of_the_second_evaluators(prediction: str, answers: list[str]) -> None:
    plain = [second_rouge(prediction, answer, str) for answer in answers]
    stemmed = [second_rouge(prediction, answer, PorterStemmer().stem) for answer in answers]
    assert rouge(prediction, tuple(answers)) == pytest.approx(
        dict(zip(ROUGES, map(max, zip(*plain, strict=True)), strict=True))
    )
    best = max(stemmed, key=lambda scores: scores[0])
    assert rouge(prediction, tuple(answers), stemmed=True) == pytest.approx(dict(zip(ROUGES, best, strict=True)))


def test_rouge_on_paper() -> None:
    # of 4 words on both sides 3 are shared, and in the same order; of 3 bigrams 1 is
    assert rouge("one two four five", ("one two three four",)) == pytest.approx(
        {"rouge1": 75, "rouge2": 100 / 3, "rougeL": 75}
    )
    # each score has its own best reference, but with the authors' script all have that of ROUGE-1
    answers = ("p q x y", "s r q p")
    assert rouge("p q r s", answers) == pytest.approx({"rouge1": 100, "rouge2": 100 / 3, "rougeL": 50})
    assert rouge("p q r s", answers, stemmed=True) == pytest.approx({"rouge1": 100, "rouge2": 0, "rougeL": 25})
    assert rouge("committee", ("committees",))["rouge1"] == 0
    assert rouge("committee", ("committees",), stemmed=True)["rouge1"] == 100


def test_lines_make_no_difference_to_rouge() -> None:
    """SCROLLS splits texts into lines, which only ROUGE-Lsum takes notice of."""
    prediction, answer = "we met\nthe budget was cut", "the budget\nwas cut when we met"
    assert rouge(prediction, (answer,)) == rouge(prediction.replace("\n", " "), (answer.replace("\n", " "),))


def test_a_question_without_a_common_bigram_does_not_count_as_zero() -> None:
    said = [("one two four five", "one two three four"), ("one", "one")]
    rows = [
        {"question_id": str(number), "doc_id": None, "scores": scored(prediction, [answer], *ROUGES, *STEMMED)}
        for number, (prediction, answer) in enumerate(said)
    ]
    means = (87.5, 100 / 6, 87.5)  # of 75 and 100, 33.3 and 0, 75 and 100
    found = {name: summarize(rows, name)["value"] for name in METRICS if name.startswith("rouge")}
    assert found["rouge_geometric"] == pytest.approx(math.prod(means) ** (1 / 3), abs=1e-3)
    assert found["rouge_arithmetic"] == pytest.approx(sum(means) / 3, abs=1e-3)
    assert found["rouge2"] == pytest.approx(means[1], abs=1e-3)
    assert found["rouge_arithmetic_stemmed"] == pytest.approx(sum(means) / 3, abs=1e-3)
    assert METRICS["rouge_geometric"].of(dict(zip(ROUGES, means, strict=True))) == combine("geometric", means)


def test_each_variant_of_rouge_is_computed_once_per_question(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Counting(RougeScorer):  # type: ignore[misc]
        def score(self, target: str, prediction: str) -> object:
            calls.append((target, prediction))
            return super().score(target, prediction)

    monkeypatch.setattr(scoring, "_rouge_scorer", lambda stemmed: Counting(list(ROUGES), use_stemmer=stemmed))
    scored("p q r counted once", ["p q x y", "s r q p"], *parts_of(SPECS["qmsum"].metrics))
    assert len(calls) == 4, "two references, with and without stemmer"


# all of them --------------------------------------------------------------------------------------------------------


def test_every_metric_is_made_of_parts_that_scoring_has() -> None:
    assert set(parts_of(list(METRICS))) == set(PARTS)
    assert title_of("rouge_geometric") == "geo-ROUGE"
    assert title_of("answer_recall@5") == "answer_recall@5"


@pytest.mark.parametrize(
    ("dataset", "said", "expected"),
    [
        # EM after SQuAD's normalization: right, wrong by an apostrophe, right by the second answer
        ("nq", [("The Nile.", ["nile"]), ("O’Neill", ["O'Neill"]), ("usa", ["US", "U.S.A."])], 200 / 3),
        # EM after TriviaQA's: both apostrophes are blanks, dots too
        ("triviaqa", [("The Nile.", ["nile"]), ("O’Neill", ["O'Neill"]), ("usa", ["US", "U.S.A."])], 200 / 3),
        # F1 80, 100 (nothing left of both), 0
        ("narrativeqa", [("red fox jumps", ["red fox"]), ("a", ["the"]), ("x", ["y"])], 60),
        # F1 80, 0 (nothing left of both), 0
        ("qasper", [("red fox jumps", ["red fox", "dog"]), ("a", ["the"]), ("Yes", ["No"])], 80 / 3),
        ("squad", [("red fox jumps", ["red fox"]), ("a", ["the"]), ("x", ["x", "y"])], 60),
        ("quality", [("B", [OPTIONS[1]]), ("a baker", [OPTIONS[1]]), ("who knows", [OPTIONS[1]])], 200 / 3),
        ("qmsum", [("one two four five", ["one two three four"]), ("one", ["one"])], (87.5**2 * 100 / 6) ** (1 / 3)),
    ],
)
def test_the_headline_of_each_dataset(dataset: str, said: list[tuple[str, list[str]]], expected: float) -> None:
    spec = SPECS[dataset]
    options = OPTIONS if METRICS[spec.metric].needs_options else ()
    rows = [
        {
            "question_id": str(number),
            "doc_id": None,
            "scores": scored(prediction, answers, *parts_of(spec.metrics), options=options),
        }
        for number, (prediction, answers) in enumerate(said)
    ]
    assert summarize(rows, spec.metric)["value"] == pytest.approx(expected, abs=1e-3)
    for metric in spec.metrics:
        assert 0 <= summarize(rows, metric)["value"] <= 100


def test_qualitys_exact_match_is_that_of_scrolls_and_reads_no_letters() -> None:
    found = [scored(said, [OPTIONS[1]], "exact_match", options=OPTIONS)["exact_match"] for said in ("baker!", "B")]
    assert found == [100, 0]


def test_four_digits_are_kept_and_what_is_missing_is_refused() -> None:
    assert scored("red fox", ["fox", "red"], "f1") == {"f1": 66.6667}
    with pytest.raises(DataError, match="question 'q' has no answers to hold a prediction against"):
        scored("x", [], "f1")
    for part in ("accuracy", "parsable"):
        with pytest.raises(DataError, match="question 'q' has no options, which accuracy needs"):
            scored("x", ["x"], "f1", part)


@given(st.text(max_size=40), st.lists(st.text(max_size=40), min_size=1, max_size=3))
def test_scores_stay_in_range_for_any_text(prediction: str, answers: list[str]) -> None:
    scores = scored(prediction, answers, *PARTS, options=[*answers, "something else"])
    assert set(scores) == set(PARTS)
    assert all(0 <= value <= 100 for value in scores.values())
    assert scores["f1_scrolls"] >= scores["f1"]
    assert scores["f1_scrolls"] >= scores["f1_first"]
    assert scores["f1_scrolls"] >= scores["exact_match"]
    assert scores["parsable"] >= scores["accuracy"]
    assert all(scores[name] >= rouge(prediction, tuple(answers[:1]))[name] - 1e-4 for name in ROUGES)


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=20), min_size=2, max_size=5))
def test_a_choice_is_one_of_the_options(prediction: str, options: list[str]) -> None:
    place = choice(prediction, options)
    assert place is None or 0 <= place < len(options)
    for option in options:
        named = choice(option, options)
        if option.strip():
            assert named is not None
            assert " ".join(options[named].casefold().split()) == " ".join(option.casefold().split())


@given(st.text(min_size=1, max_size=40))
def test_an_answer_matches_itself(text: str) -> None:
    found = scored(text, [text], "exact_match", "triviaqa_exact_match", "exact_match_unicode", "f1_scrolls")
    assert set(found.values()) == {100.0}


# real files ---------------------------------------------------------------------------------------------------------


def real_examples(folder: Path, dataset: str) -> list[Example]:
    layout = SPECS[dataset].layouts["official"]
    split, file = layout.find_test(folder)
    return [example for record in layout.read(file, split, BadRecords(skip=True)) for _, example in record.placed]


@pytest.mark.parametrize("dataset", ["nq", "triviaqa", "qasper", "quality", "qmsum"])
def test_real_references_are_right_answers(shared: Path, dataset: str) -> None:
    """Each reference scores 100 by the headline's parts; so no evaluator's normalization leaves nothing of one."""
    parts = METRICS[SPECS[dataset].metric].parts
    examples = real_examples(shared / "data" / dataset, dataset)
    assert examples
    for example in examples:
        for answer in example.answers:
            found = scored(answer, example.answers, *parts, options=example.options)
            assert set(found.values()) == {100.0}, (example.question_id, answer)


def test_real_options_are_told_apart(shared: Path) -> None:
    for example in real_examples(shared / "data" / "quality", "quality"):
        for place, option in enumerate(example.options):
            letter = LETTERS[place]
            said = (option, f"{option}.", letter, f"({letter}) {option}", f"**{letter}**", f"{letter}. {option}")
            assert [choice(text, example.options) for text in said] == [place] * len(said), option
