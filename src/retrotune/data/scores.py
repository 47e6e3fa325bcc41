"""The names of scores: what datasets declare, scoring computes, and tables print.

A *part* is a number per question, from 0 to 100; `scores.jsonl` holds the parts. A *metric* is a function of the means
of its parts over questions. Most metrics are the mean of one part. ROUGE has three: SCROLLS takes the geometric mean of
their means, which is not the mean of the questions' geometric means: those are 0 where no bigram is shared.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Combination = Literal["mean", "geometric", "arithmetic"]

ROUGES = ("rouge1", "rouge2", "rougeL")
STEMMED = tuple(f"{name}_stemmed" for name in ROUGES)


@dataclass(frozen=True)
class Metric:
    """A metric: how tables print it, the parts it is made of, and how their means become one number.

    `needs_options`: only questions with options have it.
    """

    title: str
    parts: tuple[str, ...]
    combination: Combination = "mean"
    needs_options: bool = False

    def of(self, means: Mapping[str, float]) -> float:
        """The metric's value from the means of its parts."""
        return combine(self.combination, [means[part] for part in self.parts])


def combine(combination: Combination, means: Sequence[Any]) -> Any:
    """One number from the means of a metric's parts, which may be numpy arrays of one shape: elementwise then."""
    if combination == "geometric":
        return math.prod(means) ** (1 / len(means))
    return sum(means) / len(means)


def _alone(title: str, part: str, needs_options: bool = False) -> Metric:
    return Metric(title, (part,), needs_options=needs_options)


METRICS: dict[str, Metric] = {
    "exact_match": _alone("EM", "exact_match"),
    "f1": _alone("F1", "f1"),
    "f1_scrolls": _alone("F1", "f1_scrolls"),
    "f1_first": _alone("F1 (first answer)", "f1_first"),
    "contains": _alone("contains", "contains"),
    "triviaqa_exact_match": _alone("EM", "triviaqa_exact_match"),
    "triviaqa_f1": _alone("F1", "triviaqa_f1"),
    "exact_match_unicode": _alone("EM (Unicode)", "exact_match_unicode"),
    "f1_unicode": _alone("F1 (Unicode)", "f1_unicode"),
    "accuracy": _alone("accuracy", "accuracy", needs_options=True),
    "parsable": _alone("choices read", "parsable", needs_options=True),
    "rouge1": _alone("ROUGE-1", "rouge1"),
    "rouge2": _alone("ROUGE-2", "rouge2"),
    "rougeL": _alone("ROUGE-L", "rougeL"),
    "rouge_geometric": Metric("geo-ROUGE", ROUGES, "geometric"),
    "rouge_arithmetic": Metric("mean ROUGE", ROUGES, "arithmetic"),
    "rouge1_stemmed": _alone("ROUGE-1 (stemmed)", "rouge1_stemmed"),
    "rouge2_stemmed": _alone("ROUGE-2 (stemmed)", "rouge2_stemmed"),
    "rougeL_stemmed": _alone("ROUGE-L (stemmed)", "rougeL_stemmed"),
    "rouge_geometric_stemmed": Metric("geo-ROUGE (stemmed)", STEMMED, "geometric"),
    "rouge_arithmetic_stemmed": Metric("mean ROUGE (stemmed)", STEMMED, "arithmetic"),
}
"""Every metric by its name in result files (geo-ROUGE: geometric mean of ROUGE-1, -2 and -L)."""


def title_of(metric: str) -> str:
    """How tables print a metric; a name from elsewhere stays as it is."""
    return METRICS[metric].title if metric in METRICS else metric


def parts_of(metrics: Sequence[str]) -> tuple[str, ...]:
    """The parts that metrics are made of, each once, in the order of the metrics."""
    return tuple(dict.fromkeys(part for name in metrics for part in METRICS[name].parts))
