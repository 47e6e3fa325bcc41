"""The report of a study whose cells are not all done, or of a selection: in a folder of its own.

Snakemake takes whatever lies in the workflow's folders for what the workflow made there.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from retrotune.errors import RetrotuneError
from retrotune.report.gathering.answers import collect_answers
from retrotune.report.gathering.collect import Result, holds, read_cells, write_results
from retrotune.report.judging.claims import judge_claims
from retrotune.report.judging.diagnosing import diagnose_cells, load_diagnosis
from retrotune.report.tables.making import make_tables
from retrotune.study.artifacts import Artifacts
from retrotune.study.config import Config, Select
from retrotune.study.paths import Paths
from retrotune.study.resolve import (
    claim_testing,
    collecting_answers,
    diagnosing,
    drawing_figures,
    making_tables,
    writing_report,
)

COLLECTED = ("tables/results.json", "tables/scores.parquet")
"""What tables are made of."""
REPORT = "report.html"
_DIAGNOSIS = "tables/diagnosis.json"
_CLAIMS = "tables/claims.json"


def is_reported(config: Config, results: Sequence[Result]) -> bool:
    """Whether the study is finished, and the workflow's own tables are made of these `results`."""
    paths = Paths.of(config)
    return (
        config.select == Select()
        and all(result.status == "done" for result in results)
        and holds(paths.report(COLLECTED[0]), results)
        and Path(paths.report(COLLECTED[1])).exists()
    )


def report_so_far(config: Config, results: Sequence[Result]) -> list[str]:
    """Write what is collected of `results`, tables, figures and the report; what could not be made, and why.

    Answers are held against questions and passages, which may have been deleted; the rest does without.
    """
    from retrotune.report.figures.making import draw_figures  # altair takes a second
    from retrotune.report.page.writing import write_report
    from retrotune.report.retrieval_quality import report_retrieval

    paths, problems = Paths.of(config), list[str]()
    folder, tables, figures = paths.so_far(), paths.so_far("tables"), paths.so_far("figures")

    def made(otherwise: str, make: Callable[[], object]) -> bool:
        try:
            make()
        except RetrotuneError as error:
            problems.append(f"{otherwise}: {error}")
            return False
        return True

    # what cannot be made this time must not be read as if it were of these results
    for stale in (_CLAIMS, _DIAGNOSIS, REPORT):
        Path(paths.so_far(stale)).unlink(missing_ok=True)
    collected = _collect(paths, results)
    make_tables(making_tables(config), *collected, tables)
    tested = bool(config.claims) and made(
        "the claims are not tested", lambda: judge_claims(claim_testing(config), *collected, tables)
    )
    diagnosed = made("the cells are not diagnosed", lambda: _diagnose(config, paths, collected))
    diagnosis = paths.so_far(_DIAGNOSIS) if diagnosed else None
    draw_figures(drawing_figures(config), paths, *collected, diagnosis, figures)
    qualities = [artifact.path for artifact in Artifacts(config).qualities() if Path(artifact.path).exists()]
    if qualities:
        report_retrieval(qualities, tables, figures)
    if diagnosed:  # only then there are answers to show
        there = {"claims": tested, "retrieval_quality": bool(qualities)}
        params = writing_report(config)
        shown = {
            kind: tuple(name for name in getattr(params, kind) if there.get(name, True))
            for kind in ("tables", "figures")
        }
        page = paths.so_far(REPORT)
        made(
            "the report is not written",
            lambda: write_report(params.model_copy(update=shown), paths, folder, page),
        )
    return problems


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
    """Path of the diagnosis."""
    answers = paths.so_far("tables/answers.parquet")
    collect_answers(collecting_answers(config), paths, collected[0], answers)
    diagnose_cells(diagnosing(config), paths, *collected, answers, paths.so_far("tables"))
    return paths.so_far(_DIAGNOSIS)
