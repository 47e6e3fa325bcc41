"""All figures of a study: what each is made of, and where they are written."""

from collections.abc import Callable
from pathlib import Path

import altair as alt

from retrotune.report.figures.cost import cost_chart
from retrotune.report.figures.gains import gains_chart
from retrotune.report.figures.learning import learning_chart
from retrotune.report.figures.scaling import scaling_chart
from retrotune.report.figures.style import write_figure
from retrotune.report.tables.measures import Measures
from retrotune.study.paths import Paths
from retrotune.study.stages import DrawFiguresParams

CHARTS: dict[str, Callable[[Measures, Paths], alt.TopLevelMixin]] = {
    "scaling": lambda measures, paths: scaling_chart(measures),
    "cost": lambda measures, paths: cost_chart(measures),
    "gains": lambda measures, paths: gains_chart(measures),
    "learning": learning_chart,
}
"""What each figure is made by, of a study's results and of the files of its cells."""


def study_charts(params: DrawFiguresParams, measures: Measures, paths: Paths) -> dict[str, alt.TopLevelMixin]:
    """The study's figures by name, as charts that a file or a page can be made of.

    Of several retrievals the one with the most scored cells is drawn, the first in the config among equals. A study
    without any score gives figures that say so.
    """
    return {name: CHARTS[name](measures, paths) for name in params.figures}


def draw_figures(
    params: DrawFiguresParams, paths: Paths, results_json: str | Path, scores_parquet: str | Path, folder: str | Path
) -> None:
    """Draw the study's figures into `folder`, each in every form.

    `paths` are the study's, whose cells hold the logs of trainings. Raises `ResultError` if one of them is damaged.
    """
    charts = study_charts(params, Measures.load(results_json, scores_parquet), paths)
    for name, chart in charts.items():
        write_figure(chart, folder, name)
