"""All figures of a study: what each is made of, and where they are written."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import altair as alt

from retrotune.report.figures.cost import cost_chart
from retrotune.report.figures.gains import gains_chart
from retrotune.report.figures.learning import learning_chart
from retrotune.report.figures.quadrants import quadrants_chart
from retrotune.report.figures.recall import recall_chart
from retrotune.report.figures.scaling import scaling_chart
from retrotune.report.figures.style import write_figure
from retrotune.report.judging.quadrants import Quadrants, load_quadrants
from retrotune.report.tables.measures import Measures
from retrotune.study.cells import Cell
from retrotune.study.paths import Paths
from retrotune.study.stages import DrawFiguresParams


class Drawn(NamedTuple):
    """What figures are made of: results, what passages held, and where the cells' logs of training lie."""

    measures: Measures
    quadrants: Mapping[Cell, Quadrants]
    paths: Paths


CHARTS: dict[str, Callable[[Drawn], alt.TopLevelMixin]] = {
    "scaling": lambda drawn: scaling_chart(drawn.measures),
    "cost": lambda drawn: cost_chart(drawn.measures),
    "gains": lambda drawn: gains_chart(drawn.measures),
    "learning": lambda drawn: learning_chart(drawn.measures, drawn.paths),
    "quadrants": lambda drawn: quadrants_chart(drawn.measures, drawn.quadrants),
    "recall": lambda drawn: recall_chart(drawn.measures, drawn.quadrants),
}


def draw_figures(
    params: DrawFiguresParams,
    paths: Paths,
    results_json: str | Path,
    scores_parquet: str | Path,
    diagnosis_json: str | Path | None,
    folder: str | Path,
) -> None:
    """Draw the study's figures into `folder`, each in every form.

    Of several retrievals the one with the most scored cells is drawn, the first in the config among equals. A study
    without any score gives figures that say so, as those do whose cells were not diagnosed (`diagnosis_json` None).
    `paths` are the study's, whose cells hold the logs of trainings. Raises `ResultError` if one of them is damaged.
    """
    quadrants = {} if diagnosis_json is None else load_quadrants(diagnosis_json)
    drawn = Drawn(Measures.load(results_json, scores_parquet), quadrants, paths)
    for name in params.figures:
        write_figure(CHARTS[name](drawn), folder, name)
