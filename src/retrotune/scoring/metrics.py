"""Scores of one answer, from 0 to 100: token F1, exact match, multiple choice and ROUGE. `data.scores` names them.

Every score here, and so every value in `scores.jsonl`, `metrics.json` and the tables, is on the scale 0 to 100 on
which papers print them, and higher is better. Texts are compared after the normalization of the SQuAD evaluation.
"""

import functools
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

from retrotune.errors import DataError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_LETTER = re.compile(r"\(?([a-z])(?:[).:]|$)", re.IGNORECASE)


def normalize(text: str) -> str:
    """Lower-case, drop punctuation and the articles, collapse white space.

    As SQuAD's evaluation does, with two additions for text that is not plain ASCII: compatible code points are made
    one (NFKC: full-width digits, ligatures), and all of Unicode's punctuation is dropped, typographic quotes too.
    """
    text = unicodedata.normalize("NFKC", text).lower()
    text = "".join(
        char for char in text if char not in string.punctuation and not unicodedata.category(char).startswith("P")
    )
    return " ".join(_ARTICLES.sub(" ", text).split())


def _f1(prediction: str, answer: str) -> float:
    predicted, wanted = normalize(prediction).split(), normalize(answer).split()
    if not predicted or not wanted:
        return 100.0 * (predicted == wanted)
    shared = (Counter(predicted) & Counter(wanted)).total()
    return 200.0 * shared / (len(predicted) + len(wanted))


def token_f1(prediction: str, answers: Sequence[str]) -> float:
    """Harmonic mean of token precision and recall (bags of words) against the best of the answers."""
    return max(_f1(prediction, answer) for answer in answers)


def token_f1_first(prediction: str, answers: Sequence[str]) -> float:
    """Token F1 against the first answer only, as the public scorer of the paper's authors computes it."""
    return _f1(prediction, answers[0])


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """100 if the normalized prediction equals any normalized answer."""
    return 100.0 * (normalize(prediction) in {normalize(answer) for answer in answers})


def multiple_choice(prediction: str, answers: Sequence[str], options: Sequence[str]) -> float:
    """100 if the prediction is the right option: its text, its letter (`B`, `(B)`, `B.`), or letter and text.

    A prediction whose text equals an option counts as that option, even where it could be read as a letter. The letter
    decides where letter and text disagree.
    """
    right = {normalize(answer) for answer in answers}
    chosen = normalize(prediction)
    if chosen in {normalize(option) for option in options} | right:
        return 100.0 * (chosen in right)
    letter = _LETTER.match(prediction.strip())
    if letter is None:
        return 0.0
    place = ord(letter.group(1).lower()) - ord("a")
    return 100.0 * (place < len(options) and normalize(options[place]) in right)


@functools.lru_cache(maxsize=1)
def _rouge_scorer():  # type: ignore[no-untyped-def]
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)


def rouge(prediction: str, answers: Sequence[str]) -> dict[str, float]:
    """ROUGE-1, -2 and -L (F-measures, Porter stemmer) with their geometric and arithmetic means.

    Of several answers the one with the highest ROUGE-1 counts for all values, as in the authors' script. The geometric
    mean is what InstructRetro and the long-context study print for QMSum; the arithmetic one is the script's average.
    rouge-score knows only ASCII letters and digits: text in other scripts has ROUGE 0, as in published values.
    """
    scored = [_rouge_scorer().score(answer, prediction) for answer in answers]
    best = max(scored, key=lambda score: score["rouge1"].fmeasure)
    values = {name: 100.0 * float(score.fmeasure) for name, score in best.items()}
    product = values["rouge1"] * values["rouge2"] * values["rougeL"]
    return {
        **values,
        "rouge_geometric": product ** (1 / 3),
        "rouge_arithmetic": sum(values.values()) / 3,
    }


def score_prediction(prediction: str, answers: Sequence[str], options: Sequence[str] = ()) -> dict[str, float]:
    """All scores of one prediction, 0 to 100, by metric name; `multiple_choice` only for questions with options.

    Which of them is the dataset's primary one says `DatasetSpec.metric`. Raises `DataError` without answers.
    """
    if not answers:
        raise DataError(f"a question without answers cannot be scored (prediction {prediction[:80]!r})")
    scores = {
        "exact_match": exact_match(prediction, answers),
        "f1": token_f1(prediction, answers),
        "f1_first": token_f1_first(prediction, answers),
        **rouge(prediction, answers),
    }
    if options:
        scores["multiple_choice"] = multiple_choice(prediction, answers, options)
    return {name: round(value, 4) for name, value in scores.items()}
