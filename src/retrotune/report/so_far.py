"""The report of a study whose cells are not all done, or of a selection: in a folder of its own.

Snakemake takes whatever lies in the workflow's folders for what the workflow made there.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retrotune.errors import RetrotuneError
from retrotune.report.gathering.answers import collect_answers
from retrotune.report.gathering.collect import Result, holds, read_cells, write_results
from retrotune.report.judging.diagnosing import diagnose_cells, load_diagnosis
from retrotune.report.tables.making import make_tables
from retrotune.study.config import Config, Select
from retrotune.study.paths import Paths
from retrotune.study.resolve import collecting_answers, diagnosing, drawing_figures, making_tables

COLLECTED = ("tables/results.json", "tables/scores.parquet")
"""What tables are made of."""
_DIAGNOSIS = "tables/diagnosis.json"


def is_reported(config: Config, results: Sequence[Result]) -> bool:
    """Whether the study is finished, and the workflow's own tables are made of these `results`."""
    paths = Paths.of(config)
    return (
        config.select == Select()
        and all(result.status == "done" for result in results)
        and holds(paths.report(COLLECTED[0]), results)
        and Path(paths.report(COLLECTED[1])).exists()
    )


def report_so_far(config: Config, results: Sequence[Result]) -> str | None:
    """Write what is collected, tables and figures of `results`; why cells are not diagnosed, else None.

    Answers are held against passages, which may have been deleted; the rest of the report does without.
    """
    from retrotune.report.figures.making import draw_figures  # altair takes a second

    paths = Paths.of(config)
    problem, diagnosis = None, None
    collected = _collect(paths, results)
    make_tables(making_tables(config), *collected, paths.so_far("tables"))
    try:
        diagnosis = _diagnose(config, paths, collected)
    except RetrotuneError as error:
        problem = str(error)
    draw_figures(drawing_figures(config), *collected, diagnosis, paths.so_far("figures"))
    return problem


def diagnosis_of(config: Config) -> dict[str, Any]:
    """The diagnosis that the workflow made of a finished study, else one of what is done, made now.

    Raises `RetrotuneError` where answers cannot be held against passages.
    """
    paths, results = Paths.of(config), read_cells(config)
    made = Path(paths.report(_DIAGNOSIS))
    if is_reported(config, results) and made.exists():
        found = load_diagnosis(made)
        if found["uses"] == diagnosing(config).recorded():
            return found
    return load_diagnosis(_diagnose(config, paths, _collect(paths, results)))


def _collect(paths: Paths, results: Sequence[Result]) -> tuple[str, str]:
    collected, scores = map(paths.so_far, COLLECTED)
    write_results(paths, results, paths.so_far("tables/metrics.csv"), collected, scores)
    return collected, scores


def _diagnose(config: Config, paths: Paths, collected: tuple[str, str]) -> str:
    answers = paths.so_far("tables/answers.parquet")
    collect_answers(collecting_answers(config), paths, collected[0], answers)
    diagnose_cells(diagnosing(config), paths, *collected, answers, paths.so_far("tables"))
    return paths.so_far(_DIAGNOSIS)
