"""All figures of a study: what each is made of, and where they are written."""

from pathlib import Path

from retrotune.report.figures.quadrants import quadrants_chart
from retrotune.report.figures.recall import recall_chart
from retrotune.report.figures.scaling import scaling_chart
from retrotune.report.figures.style import write_figure
from retrotune.report.judging.quadrants import load_quadrants
from retrotune.report.tables.measures import Measures
from retrotune.study.stages import DrawFiguresParams


def draw_figures(
    params: DrawFiguresParams,
    results_json: str | Path,
    scores_parquet: str | Path,
    diagnosis_json: str | Path | None,
    folder: str | Path,
) -> None:
    """Draw the study's figures into `folder`, each in every form.

    Of several retrievals the one with the most scored cells is drawn, the first in the config among equals. A study
    without any score gives a figure that says so, as one does whose cells were not diagnosed (`diagnosis_json` None).
    """
    measures = Measures.load(results_json, scores_parquet)
    quadrants = {} if diagnosis_json is None else load_quadrants(diagnosis_json)
    makers = {
        "scaling": lambda: scaling_chart(measures),
        "quadrants": lambda: quadrants_chart(measures, quadrants),
        "recall": lambda: recall_chart(measures, quadrants),
    }
    for name in params.figures:
        write_figure(makers[name](), folder, name)
