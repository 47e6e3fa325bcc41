"""What stands below tables and figures: what an interval covers, what marks mean, what is missing and why."""

from collections.abc import Sequence

from retrotune.report.gathering.collect import FAMILIES, Result
from retrotune.report.gathering.provenance import provenance_notes
from retrotune.report.gathering.rows import grouped, in_rows, unique
from retrotune.report.tables.measures import Measures, by_dataset
from retrotune.report.tables.significance import Marked


def legend_of(marked: Marked) -> str:
    """What a table's marks mean; {best} and {near} stand for how a form shows them."""
    tests = {
        "arms swapped at random within documents": marked.permuted,
        "Student's t over several runs": marked.tests - marked.permuted,
    }
    how = " and ".join(name for name, number in tests.items() if number)
    few = in_words(marked.too_few)
    lack = f" For so many tests {few} are too few: no difference on them can be significant." if few else ""
    resamples = f", {marked.resamples:,} resamples" if marked.permuted else ""
    if not marked.tests:
        return "The best of each column is {best}."
    return (
        "The best of each column is {best}. What is not significantly worse is {near}: paired tests on the same "
        f"questions ({how}{resamples}), Holm's correction over the table's {marked.tests} tests, 5 %.{lack}"
    )


def grid_notes(measures: Measures, max_listed: int | None) -> list[str]:
    """Scale, intervals, runs, models, what made results, and cells without a score: `max_listed` of them by name."""
    results = measures.results
    notes = [f"Scores from 0 to 100, higher is better. {interval_note(measures)}", runs_note(measures)]
    notes += [*_several_bases(results), *_departures(results), *provenance_notes(results)]
    gaps = [result for result in results if result.primary is None]
    if gaps:
        listed = ", ".join(f"{result.name} ({result.status})" for result in gaps[:max_listed])
        listed += f" and {len(gaps) - max_listed} more" if max_listed and len(gaps) > max_listed else ""
        notes.append(f"Without a score, {len(gaps)} of {len(results)} cells: {listed}.")
    failed = [result for result in gaps if result.status == "failed"]
    if failed:
        listed = "; ".join(f"{result.name}: {result.problem}" for result in failed[:max_listed])
        listed += f"; and {len(failed) - max_listed} more" if max_listed and len(failed) > max_listed else ""
        notes.append(f"Failed, {len(failed)} of {len(results)} cells: {listed}.")
    return [note for note in notes if note]


def in_words(words: Sequence[str]) -> str:
    """Words as a sentence lists them."""
    return " and ".join(words) if len(words) < 3 else f"{', '.join(words[:-1])}, and {words[-1]}"


def interval_note(measures: Measures) -> str:
    """What was resampled in an interval: documents with all their questions, or questions; and trainings."""
    own = [name for name in measures.datasets if measures.num_documents(name) is not None]
    others = [name for name in measures.sheets if name not in own]
    units = [
        *([f"documents ({', '.join(own)})" if others else "documents"] if own else []),
        *([f"questions ({', '.join(others)})" if own else "questions"] if others else []),
        *(["trainings where a row has several"] if _most_runs(measures) > 1 else []),
    ]
    if not units:
        return ""
    average = " That of the average holds for these datasets, not for others." if len(measures.datasets) > 1 else ""
    return f"Intervals: 95 %, over {in_words(units)}.{average}"


def runs_note(measures: Measures) -> str:
    """How many trainings numbers rest on. One says nothing of how much trainings vary."""
    done = [result for result in measures.results if result.primary is not None]
    if not done:
        return ""
    most, fewest = _most_runs(measures), _fewest_runs(measures)
    if most == 1:
        return (
            "Each number is of a single run: seed variance is missing. Another seed of training could move it by more "
            "than its interval."
        )
    seeds = unique(result.seed for result in done)
    replicates = len({result.model for result in done if result.replicate_of})
    parts = [
        f"{len(seeds)} seeds ({', '.join(map(str, seeds))})" if len(seeds) > 1 else "",
        f"{replicates} replicates of base models"
        if replicates > 1
        else "a replicate of a base model"
        if replicates
        else "",
    ]
    note = f"Means over up to {most} runs of a row" if most != fewest else f"Means over {most} runs of each row"
    note += f": {' and '.join(filter(None, parts))}."
    if fewest == 1:
        note += (
            " Rows of a single run lack seed variance in their intervals; a test against a row of several counts that "
            "row's for both."
        )
    return note


def _runs(measures: Measures) -> list[int]:
    """Scored runs of each row and dataset that has some."""
    counts = [
        sum(result.primary is not None for result in same)
        for members in in_rows(measures.results)
        for same in by_dataset(members).values()
    ]
    return [count for count in counts if count]


def _most_runs(measures: Measures) -> int:
    return max(_runs(measures), default=0)


def _fewest_runs(measures: Measures) -> int:
    return min(_runs(measures), default=0)


def _several_bases(results: Sequence[Result]) -> list[str]:
    """A warning where cells of one model rest on different weights, as their base model was made anew in between."""
    bases = {
        model: unique(result.fingerprint for result in cells if result.primary is not None and result.fingerprint)
        for model, cells in grouped(results, lambda result: result.model).items()
    }
    return [
        f"Cells of {model} rest on {len(found)} different base models ({', '.join(found)}) and cannot be compared: run "
        "snakemake, which makes the older ones again."
        for model, found in bases.items()
        if len(found) > 1
    ]


def _departures(results: Sequence[Result]) -> list[str]:
    """A note on what scored models have that NVIDIA's have not, under a family's name where only one has it."""
    scored = [result for result in results if result.primary is not None]
    found = {
        family: unique(departure for result in members for departure in result.departures)
        for family, members in grouped(scored, lambda result: result.family).items()
    }
    everywhere = unique(text for texts in found.values() for text in texts if all(text in o for o in found.values()))
    parts = list(everywhere)
    for family, texts in found.items():
        own = [text for text in texts if text not in everywhere]
        if own:
            parts.append(f"{FAMILIES[family]} only: " + "; ".join(own))
    return [f"Models depart from NVIDIA's architecture: {'; '.join(parts)}."] if parts else []
