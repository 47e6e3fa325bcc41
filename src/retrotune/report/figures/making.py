"""All figures of a study: what each is made of, and where they are written."""

from pathlib import Path

from retrotune.report.figures.scaling import scaling_chart
from retrotune.report.figures.style import write_figure
from retrotune.report.tables.measures import Measures
from retrotune.study.stages import DrawFiguresParams


def draw_figures(
    params: DrawFiguresParams, results_json: str | Path, scores_parquet: str | Path, folder: str | Path
) -> None:
    """Draw the study's figures into `folder`, each in every form.

    Of several retrievals the one with the most scored cells is drawn, the first in the config among equals. A study
    without any score gives a figure that says so.
    """
    measures = Measures.load(results_json, scores_parquet)
    makers = {"scaling": lambda: scaling_chart(measures)}
    for name in params.figures:
        write_figure(makers[name](), folder, name)
