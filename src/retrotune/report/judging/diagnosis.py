"""Known patterns of trouble in a study's cells, each found by a function of its own from scores and quadrants.

A pattern that many cells show is one finding. What each pattern means, and what to do, is in docs/diagnosis.md.
"""

import math
from collections.abc import Callable, Iterator, Sequence

from retrotune.report.gathering.collect import Result
from retrotune.report.judging.evidence import (
    BROKEN,
    LOST,
    UNSURE,
    Evidence,
    Finding,
    contrasts_of,
    finding_of,
    place_of,
    recall_of,
    total_of,
)
from retrotune.report.judging.quadrants import Quadrants, share

LOW_RECALL = 50.0
"""Percent of the questions: below it most of them cannot be answered from what the model reads."""
MANY_CUT = 10.0
"""Percent of the questions with cut passages: the effects that studies look for are of about this size."""
CAPPED = 5.0
"""Percent of the answers at the length cap that count where these score lower: rarer ones move a score too little."""
CAPPED_ANYWAY = 20.0
"""Percent of the answers at the cap that count whatever they score: the cap and not the model ends each fifth one."""
PARSABLE = 90.0
"""Percent of the choices that must be readable: the others count as wrong, whatever the model knows."""
EMPTY = 10.0
"""Percent of empty predictions; single ones are answers that post-processing left nothing of."""
SAME_OF = 10
"""Questions from which on one prediction for all of them is no chance."""
FALLEN = 0.95
"""Share of the first tenth's loss that the last tenth must be below: batches alone move a tenth's mean by less."""
LINES = 10
"""Lines of a training log that make tenths."""
GIVEN = 50.0
"""Percent of the questions whose passages hold an answer from which on these should carry a cell's score."""

Pattern = Callable[[Evidence], Iterator[Finding]]


def find(evidence: Evidence) -> list[Finding]:
    """All patterns that the cells show, the most serious first."""
    found = [finding for pattern in PATTERNS for finding in pattern(evidence)]
    return sorted(found, key=lambda finding: -finding.weight)


def notes(evidence: Evidence) -> list[str]:
    """What could not be looked at."""
    without = sum(result.cell not in evidence.losses for result in evidence.trained)
    short = sum(len(losses) < LINES for losses in evidence.losses.values())
    unmeasured = sum(found.measured == 0 for found in evidence.quadrants.values())
    said = {
        f"{without} of {len(evidence.trained)} trained cells have no readable train_log.jsonl: whether their loss "
        "fell is not known.": without,
        f"{short} of {len(evidence.trained)} trained cells have fewer than {LINES} lines in train_log.jsonl: too few "
        "to say whether the loss fell.": short,
        f"In {unmeasured} of {len(evidence.done)} cells the length of answers was not recorded: whether the cap cut "
        "them is not known.": unmeasured,
    }
    return [note for note, count in said.items() if count]


# patterns -----------------------------------------------------------------------------------------------------------
def retro_below_gpt(evidence: Evidence) -> Iterator[Finding]:
    """RETRO scores below GPT where passages that hold an answer do not reach it, or reach it cut."""
    retro = [result for result in evidence.done if result.family == "retro" and result.retrieval_gate in (None, 1)]
    gpt = [result for result in evidence.done if result.family == "gpt"]
    contrasts = contrasts_of(evidence, retro, gpt, ["family"])
    found = []
    for contrast in contrasts:
        own, other = (total_of(evidence, side) for side in (contrast.first, contrast.second))
        recall, recall_gpt = recall_of(own), recall_of(other)
        cut = share(own.cut, own.questions) or 0.0
        is_low = recall is not None and (recall < LOW_RECALL or (recall_gpt is not None and recall < recall_gpt))
        if contrast.high < 0 and (is_low or cut >= MANY_CUT):
            found.append((contrast, recall, recall_gpt, cut))
    if not found:
        return
    found.sort(key=lambda item: item[0].value)
    contrast, recall, recall_gpt, cut = found[0]
    numbers = {
        "points below GPT": -contrast.value,
        "interval from": contrast.low,
        "interval to": contrast.high,
        **({} if recall is None else {"% of RETRO's questions with an answer among passages": recall}),
        **({} if recall_gpt is None else {"% of GPT's questions with an answer among passages": recall_gpt}),
        "% of RETRO's questions with cut passages": cut,
    }
    yield finding_of(
        "retro-below-gpt",
        [result for item in found for result in item[0].first],
        sum(len(contrast.first) for contrast in contrasts),
        LOST,
        "RETRO scores below GPT where passages with the answer do not reach it or are cut",
        "Give both families the same passages (num_contexts and num_neighbors of the retrieval), raise top_k, or raise "
        "max_length where passages are cut. Cells with a gold retriever tell what better passages would bring.",
        numbers,
    )


def ptuning_flat(evidence: Evidence) -> Iterator[Finding]:
    """P-tuning does not gain over zero-shot where another method does."""
    zeroshot = [result for result in evidence.done if result.kind == "zeroshot"]
    contrasts = contrasts_of(evidence, evidence.trained, zeroshot, ["method"])
    learned: dict[tuple[str, ...], float] = {}
    for contrast in contrasts:
        place = place_of(contrast)
        if contrast.first[0].kind != "ptuning" and contrast.low > 0:
            learned[place] = max(contrast.value, learned.get(place, 0.0))
    tuned = [contrast for contrast in contrasts if contrast.first[0].kind == "ptuning"]
    flat = [contrast for contrast in tuned if contrast.low <= 0 and place_of(contrast) in learned]
    if not flat:
        return
    flat.sort(key=lambda contrast: contrast.value - learned[place_of(contrast)])
    yield finding_of(
        "ptuning-flat",
        [result for contrast in flat for result in contrast.first],
        sum(len(contrast.first) for contrast in tuned),
        LOST,
        "P-tuning gains nothing over zero-shot where another method learns from the same questions",
        "Give P-tuning a recipe of its own (methods.NAME.finetuning: a higher learning_rate, more epochs) or more "
        "num_virtual_tokens, and look at the losses in the cell's train_log.jsonl.",
        {
            "points gained by P-tuning": flat[0].value,
            "interval from": flat[0].low,
            "interval to": flat[0].high,
            "points gained by the best other method": learned[place_of(flat[0])],
        },
    )


def loss_that_does_not_fall(evidence: Evidence) -> Iterator[Finding]:
    """The training loss ends about where it began."""
    ratios = {}
    known = [result for result in evidence.trained if len(evidence.losses.get(result.cell, ())) >= LINES]
    for result in known:
        losses = evidence.losses[result.cell]
        count = len(losses) // 10
        first, last = sum(losses[:count]) / count, sum(losses[-count:]) / count
        if last >= FALLEN * first:
            ratios[result.cell] = first, last
    flat = sorted((r for r in known if r.cell in ratios), key=lambda r: ratios[r.cell][0] - ratios[r.cell][1])
    if flat:
        first, last = ratios[flat[0].cell]
        yield finding_of(
            "loss-flat",
            flat,
            len(known),
            BROKEN,
            "The training loss does not fall",
            "Raise learning_rate or the number of steps in the method's finetuning; where the loss rises, lower "
            "learning_rate.",
            {"loss in the first tenth": first, "loss in the last tenth": last},
        )


def cut_by_the_cap(evidence: Evidence) -> Iterator[Finding]:
    """The cap on the length ends many answers."""

    def capped(result: Result) -> float:
        found = evidence.quadrants[result.cell]
        return share(found.at_cap, found.measured) or 0.0

    def is_cut(result: Result) -> bool:
        found, percent = evidence.quadrants[result.cell], capped(result)
        pair = found.points_capped, found.points_other
        is_lower = None not in pair and (pair[0] or 0.0) < (pair[1] or 0.0)
        return percent > CAPPED_ANYWAY or (percent > CAPPED and is_lower)

    known = [result for result in evidence.done if evidence.quadrants[result.cell].measured]
    cut = sorted(filter(is_cut, known), key=capped, reverse=True)
    if cut:
        worst = evidence.quadrants[cut[0].cell]
        numbers = {"score of answers at the cap": worst.points_capped, "score of the others": worst.points_other}
        yield finding_of(
            "answers-cut",
            cut,
            len(known),
            LOST,
            "Answers end at the length cap",
            "Raise max_new_tokens of the dataset, or look with `retrotune prompt` whether the model goes on after its "
            "answer.",
            {"% of answers at the cap": capped(cut[0]), **{k: v for k, v in numbers.items() if v is not None}},
        )


def unparsable(evidence: Evidence) -> Iterator[Finding]:
    """Choices cannot be read from what the model says."""
    values = {
        result.cell: result.metrics["parsable"]["value"] for result in evidence.done if "parsable" in result.metrics
    }
    known = [result for result in evidence.done if result.cell in values]
    bad = sorted((r for r in known if values[r.cell] < PARSABLE), key=lambda result: values[result.cell])
    if bad:
        yield finding_of(
            "choices-not-read",
            bad,
            len(known),
            BROKEN,
            "Many choices cannot be read from the predictions, and count as wrong",
            "Look at predictions with `retrotune prompt`, and choose a prompt that asks for an option (datasets.NAME."
            "prompt). Do not compare these cells with others by accuracy.",
            {"% of choices read": values[bad[0].cell]},
        )


def says_nothing(evidence: Evidence) -> Iterator[Finding]:
    """Predictions are empty, or the same for all questions."""

    def is_mute(result: Result) -> bool:
        found = evidence.quadrants[result.cell]
        is_same = found.distinct == 1 and found.questions >= SAME_OF
        return is_same or (share(found.empty, found.questions) or 0.0) > EMPTY

    mute = sorted(
        filter(is_mute, evidence.done),
        key=lambda result: (evidence.quadrants[result.cell].distinct, -evidence.quadrants[result.cell].empty),
    )
    if mute:
        worst = evidence.quadrants[mute[0].cell]
        yield finding_of(
            "same-or-empty",
            mute,
            len(evidence.done),
            BROKEN,
            "Predictions are empty, or one and the same for every question",
            "Look at what the model generated with `retrotune prompt`; a training that destroys the model asks for a "
            "lower learning_rate.",
            {"different predictions": worst.distinct, "% of predictions that are empty": _percent_empty(worst)},
        )


def answers_not_used(evidence: Evidence) -> Iterator[Finding]:
    """Passages hold the answers, and questions whose passages do score no higher than the others."""
    known = [r for r in evidence.done if evidence.quadrants[r.cell].points_use_high is not None]
    unused = [
        result
        for result in known
        if (recall_of(evidence.quadrants[result.cell]) or 0.0) >= GIVEN
        and (evidence.quadrants[result.cell].points_use_high or 0.0) < evidence.effect
    ]
    unused.sort(key=lambda result: evidence.quadrants[result.cell].points_use_high or 0.0)
    if unused:
        worst = evidence.quadrants[unused[0].cell]
        yield finding_of(
            "answers-not-used",
            unused,
            len(known),
            LOST,
            "Answers are among the passages, and the model does not use them: with them it scores no "
            f"{evidence.effect:g} points higher than without",
            "Compare with a closed-book retrieval (top_k: 0), and look with `retrotune prompt` where the passage "
            "stands. Better retrieval will not help these cells.",
            {
                "% of questions with an answer among passages": recall_of(worst) or 0.0,
                "points that these score higher": worst.points_use or 0.0,
                "upper bound of 95 %": worst.points_use_high or 0.0,
            },
        )


def intervals_too_wide(evidence: Evidence) -> Iterator[Finding]:
    """Intervals of cells are wider than the effect that the study asks for."""

    def half(result: Result) -> float | None:
        entry = result.primary or {}
        low, high = entry.get("ci_low"), entry.get("ci_high")
        return None if low is None or high is None else (high - low) / 2

    halves = {result.cell: width for result in evidence.done if (width := half(result)) is not None}
    wide = [result for result in evidence.done if halves.get(result.cell, 0.0) > evidence.effect]
    wide.sort(key=lambda result: -halves[result.cell])
    if wide:
        worst = wide[0]
        asked = evidence.quadrants[worst.cell].questions
        needed = math.ceil(asked * (halves[worst.cell] / evidence.effect) ** 2)
        yield finding_of(
            "intervals-wide",
            wide,
            len(halves),
            UNSURE,
            f"Intervals of single scores are wider than ±{evidence.effect:g} points, the effect that the study asks "
            "for",
            "Raise max_test of the dataset, or add seeds. Paired comparisons (`retrotune compare`) have narrower "
            "intervals.",
            {"half width in points": halves[worst.cell], "questions": asked, "questions needed": needed},
        )


PATTERNS: Sequence[Pattern] = (
    loss_that_does_not_fall,
    says_nothing,
    unparsable,
    retro_below_gpt,
    ptuning_flat,
    cut_by_the_cap,
    answers_not_used,
    intervals_too_wide,
)


def _percent_empty(found: Quadrants) -> float:
    return share(found.empty, found.questions) or 0.0
