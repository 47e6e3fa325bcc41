"""Scores of one answer, from 0 to 100, as the official evaluators give them. `data.scores` names the parts.

Every score here, and so every value in `scores.jsonl`, `metrics.json` and the tables, is on the scale 0 to 100 on
which papers print them, and higher is better.
"""

import functools
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

from retrotune.data.datasets.base import LETTERS, Reference
from retrotune.data.scores import ROUGES
from retrotune.errors import DataError

Normalization = Callable[[str], str]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
# TriviaQA's evaluator puts blanks for punctuation, `_` among it, and for typographic apostrophes.
_BLANKS = str.maketrans(dict.fromkeys(string.punctuation + "‘’´`", " "))
_MARKS = r"[*_`\"'“”‘’]*"
_LETTER_ALONE = re.compile(r"[\W_]*([A-Za-z])[\W_]*")
_LETTER_FIRST = re.compile(
    rf"""{_MARKS}(?:
        [(\[{{]\s*{_MARKS}([A-Za-z])[.:]?{_MARKS}\s*[)\]}}]  # (B) a baker
        | (?<=[*_`])([A-Za-z])(?=[*_`])                    # **B** a baker
        | ([A-Za-z]){_MARKS}[)\].,:;!?]+{_MARKS}(?:\s|$)    # B. A baker; B, because he baked
        | ([A-Za-z]){_MARKS}\s+[-–—]+\s                    # B - a baker
    )""",
    re.VERBOSE,
)
_ANOTHER = re.compile(r"[\W_]*(?:(?:or|and)\b[\W_]*)?([A-Z])(?=[\W_]*$|[\W_]*[)\].,:;]|\s+(?:or|and)\b)")
"""A further letter behind the first: `A, B`, `(A) or (B)`."""


def normalize(text: str) -> str:
    """SQuAD 1.1: lower-case, drop ASCII punctuation, then the articles; collapse white space."""
    return _without_articles(text.lower().translate(_NO_PUNCTUATION))


def normalize_triviaqa(text: str) -> str:
    """TriviaQA's: punctuation, typographic apostrophes and `_` become blanks, so that words stay apart."""
    return _without_articles(text.lower().translate(_BLANKS))


def normalize_unicode(text: str) -> str:
    """Kinder to text beyond ASCII: compatible code points are one (NFKC), all of Unicode's punctuation goes."""
    text = unicodedata.normalize("NFKC", text).lower().translate(_NO_PUNCTUATION)
    return _without_articles("".join(char for char in text if not unicodedata.category(char).startswith("P")))


def _without_articles(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(prediction: str, answers: Sequence[str], normalization: Normalization = normalize) -> float:
    """100 if the normalized prediction equals any normalized answer."""
    return 100.0 * (normalization(prediction) in {normalization(answer) for answer in answers})


def token_f1(
    prediction: str, answers: Sequence[str], normalization: Normalization = normalize, both_empty: float = 0.0
) -> float:
    """Harmonic mean of token precision and recall (bags of words) against the best of the answers.

    `both_empty` is the score where nothing is left of both: 0 for SQuAD 1.1, 100 for SQuAD 2.0 and SCROLLS.
    """
    predicted = Counter(normalization(prediction).split())
    return max(_f1(predicted, Counter(normalization(answer).split()), both_empty) for answer in answers)


def _f1(predicted: Counter[str], wanted: Counter[str], both_empty: float) -> float:
    if not predicted and not wanted:
        return both_empty
    return 200.0 * (predicted & wanted).total() / (predicted.total() + wanted.total())


def best_answer(prediction: str, answers: Sequence[str]) -> int:
    """Place of the answer with the highest token F1, the first among equals."""
    scores = [token_f1(prediction, [answer]) for answer in answers]
    return scores.index(max(scores))


def answer_type(prediction: str, reference: Reference) -> str | None:
    """The type of the answer that the prediction is nearest to, as Qasper's evaluator groups scores.

    None where answers have no types.
    """
    return reference.types[best_answer(prediction, reference.answers)] if reference.types else None


def contains(prediction: str, answers: Sequence[str]) -> float:
    """100 if the normalized prediction holds a normalized answer as whole words; an empty answer is in none."""
    text = f" {normalize(prediction)} "
    return 100.0 * any(f" {wanted} " in text for wanted in map(normalize, answers) if wanted)


def choice(prediction: str, options: Sequence[str]) -> int | None:
    """Place of the option that a prediction names; None if it names none: it is *unparsable*.

    It names an option by its text, as it is or normalized; else by its letter alone, in brackets or Markdown marks, or
    before punctuation and a reason. The letter decides where it stands before another option's text. Letters of two
    options name neither, and so does a text that two options share once they are normalized.
    """
    text = prediction.strip()
    if (place := _place_of_text(text, options)) is not None:
        return place
    if found := _LETTER_ALONE.fullmatch(text):
        return _place_of_letter(found, options)
    if (found := _LETTER_FIRST.match(text)) is None:
        return None
    place = _place_of_letter(found, options)
    further = _ANOTHER.match(text, found.end())
    if further is None or _place_of_letter(further, options) in (None, place):
        return place
    return place if _place_of_text(text[found.end() :], options) == place else None


def _place_of_text(text: str, options: Sequence[str]) -> int | None:
    """Place of the option with this text, whatever its case and white space; else of the one normalized to the same."""
    texts = [_folded(option) for option in options]
    if _folded(text) in texts:
        return texts.index(_folded(text))
    wanted = normalize(text)
    places = [place for place, option in enumerate(options) if normalize(option) == wanted]
    return places[0] if wanted and len({texts[place] for place in places}) == 1 else None


def _place_of_letter(found: re.Match[str], options: Sequence[str]) -> int | None:
    letter = next(letter for letter in found.groups() if letter)
    place = LETTERS.index(letter.upper())
    return place if place < len(options) else None


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def accuracy(prediction: str, answers: Sequence[str], options: Sequence[str]) -> float:
    """100 if the option that the prediction names is a right one; 0 if it names none.

    Answers are options, by their text or by their letter alone; `DataError` names one that is not.
    """
    right = set()
    for answer in answers:
        place = _place_of_text(answer, options)
        if place is None and (found := _LETTER_ALONE.fullmatch(answer)):
            place = _place_of_letter(found, options)
        if place is None:
            raise DataError(f"answer {answer[:80]!r} is none of the {len(options)} options")
        right.add(_folded(options[place]))
    named = choice(prediction, options)
    return 100.0 * (named is not None and _folded(options[named]) in right)


@functools.lru_cache(maxsize=2)
def _rouge_scorer(stemmed: bool):  # type: ignore[no-untyped-def]
    """rouge-score's scorer. It stems each word once: with its own stemmer, summaries take 2.5 times as long."""
    from rouge_score import tokenize, tokenizers
    from rouge_score.rouge_scorer import RougeScorer

    stemmer = SimpleNamespace(stem=functools.cache(tokenizers.porter.PorterStemmer().stem)) if stemmed else None

    class Words(tokenizers.Tokenizer):
        def tokenize(self, text: str) -> list[str]:
            words: list[str] = tokenize.tokenize(text, stemmer)
            return words

    return RougeScorer(list(ROUGES), tokenizer=Words())


@functools.lru_cache(maxsize=4)
def rouge(prediction: str, answers: tuple[str, ...], stemmed: bool = False) -> dict[str, float]:
    """ROUGE-1, -2 and -L F-measures. Of several answers each takes its own best one, as in SCROLLS.

    `stemmed`: with Porter's stemmer, and all three against the answer with the highest ROUGE-1, as in the script of the
    paper's authors. rouge-score knows only ASCII letters and digits: text in other scripts has ROUGE 0, as in published
    values.
    """
    found = [
        {
            name: 100.0 * float(score.fmeasure)
            for name, score in _rouge_scorer(stemmed).score(answer, prediction).items()
        }
        for answer in answers
    ]
    if stemmed:
        return max(found, key=lambda scores: scores["rouge1"])
    return {name: max(scores[name] for scores in found) for name in ROUGES}


@dataclass(frozen=True)
class Answered:
    """A prediction and what it is held against."""

    prediction: str
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()


def _rouge_of(name: str, stemmed: bool, answered: Answered) -> float:
    return rouge(answered.prediction, answered.answers, stemmed)[name]


PARTS: dict[str, Callable[[Answered], float]] = {
    "exact_match": lambda a: exact_match(a.prediction, a.answers),
    "f1": lambda a: token_f1(a.prediction, a.answers),
    "f1_scrolls": lambda a: token_f1(a.prediction, a.answers, both_empty=100.0),
    "f1_first": lambda a: token_f1(a.prediction, a.answers[:1], both_empty=100.0),
    "contains": lambda a: contains(a.prediction, a.answers),
    "triviaqa_exact_match": lambda a: exact_match(a.prediction, a.answers, normalize_triviaqa),
    "triviaqa_f1": lambda a: token_f1(a.prediction, a.answers, normalize_triviaqa),
    "exact_match_unicode": lambda a: exact_match(a.prediction, a.answers, normalize_unicode),
    "f1_unicode": lambda a: token_f1(a.prediction, a.answers, normalize_unicode, both_empty=100.0),
    "accuracy": lambda a: accuracy(a.prediction, a.answers, a.options),
    "parsable": lambda a: 100.0 * (choice(a.prediction, a.options) is not None),
    **{name: functools.partial(_rouge_of, name, False) for name in ROUGES},
    **{f"{name}_stemmed": functools.partial(_rouge_of, name, True) for name in ROUGES},
}
"""Every part by its name. `f1_first` is that of the public scorer of the paper's authors."""


def score_prediction(prediction: str, reference: Reference, parts: Sequence[str]) -> dict[str, float]:
    """The named parts of one prediction's scores, 0 to 100, to four digits.

    Raises `DataError` without answers, without options where a part needs them, and where an answer is no option.
    """
    if not reference.answers:
        raise DataError(f"question {reference.question_id!r} has no answers to hold a prediction against")
    if not reference.options and any(part in parts for part in ("accuracy", "parsable")):
        raise DataError(f"question {reference.question_id!r} has no options, which accuracy needs")
    answered = Answered(prediction, reference.answers, reference.options)
    return {part: round(PARTS[part](answered), 4) for part in parts}
