"""What happened in each cell between retrieval and answer: whether passages held an answer, and whether it was given.

A question is *there* if a passage that its cell was given holds an answer (DPR's string match), else *absent*. It is
*right* if it scores at least `RIGHT`. Only a metric that is the mean of one part has a score per question.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from retrotune.data.scores import METRICS, combine
from retrotune.errors import ResultError
from retrotune.report.gathering.answers import load_answers
from retrotune.report.tables.measures import Measures, scored
from retrotune.runtime.files import read_result
from retrotune.scoring.sheets import Sheet
from retrotune.scoring.statistics import LEVEL, Array, t_quantile
from retrotune.study.cells import COORDINATES, Cell

RIGHT = 50.0
"""Points that make an answer right: metrics of 0 or 100 leave no other choice, and F1 then shares most words."""
CLASSES = ("there_right", "there_wrong", "absent_right", "absent_wrong")
"""The quadrants, in the order in which they are shown."""


@dataclass(frozen=True)
class Quadrants:
    """One cell, in numbers of questions unless a name says points.

    The quadrants are None where the metric has no score per question. `there` and `absent` are 0 where no passage can
    hold an answer. `measured` are the answers whose length was recorded. `points_capped` and `points_other` are the
    scores of the answers at the length cap and of the others, None where there are none. `points_use` is how much
    higher questions score whose passages hold an answer, `points_use_high` the upper bound of its 95 % interval; None
    where one of both groups has fewer than two clusters.
    """

    questions: int
    there: int
    absent: int
    there_right: int | None
    there_wrong: int | None
    absent_right: int | None
    absent_wrong: int | None
    copied: int
    cut: int
    measured: int
    at_cap: int
    empty: int
    distinct: int
    points_capped: float | None = None
    points_other: float | None = None
    points_use: float | None = None
    points_use_high: float | None = None

    def counts(self) -> tuple[int, ...] | None:
        """The quadrants in the order of `CLASSES`; None where nothing is known."""
        counts = tuple(getattr(self, name) for name in CLASSES)
        return counts if self.there + self.absent and None not in counts else None


_COUNTS = tuple(field.name for field in fields(Quadrants) if not field.name.startswith("points"))


def total(cells: Sequence[Quadrants]) -> Quadrants:
    """Runs of a row added up: counts alone, unknown where one of them is. `distinct` is that of the most varied run."""
    sums: dict[str, Any] = {}
    for name in _COUNTS:
        values = [getattr(cell, name) for cell in cells]
        sums[name] = None if None in values else max(values) if name == "distinct" else sum(values)
    return Quadrants(**sums)


def count_quadrants(measures: Measures, answers: str | Path) -> dict[Cell, Quadrants]:
    """Quadrants of each cell with a score, in the order of results; `answers` is what `collect_answers` wrote.

    Raises `ResultError` if the file lacks a cell, or has other questions than the scores.
    """
    found = load_answers(answers, ["question_id", "prediction", "held", "copied", "cut", "at_cap"])
    codes = {dataset: np.unique(sheet.clusters, return_inverse=True)[1] for dataset, sheet in measures.sheets.items()}
    indexes = {dataset: _index(sheet.question_ids) for dataset, sheet in measures.sheets.items()}
    quadrants = {}
    for cell in scored(measures.results):
        sheet = measures.sheets[cell.dataset]
        ids = found[cell]["question_id"] if cell in found else []
        order = np.asarray(indexes[cell.dataset].get_indexer(ids))
        if len(order) != len(sheet.question_ids) or order.min() < 0:
            raise ResultError(
                f"{answers}: not the questions that {cell.name} was scored on; run snakemake, which collects them again"
            )
        quadrants[cell] = _count(sheet, cell, found[cell], order, codes[cell.dataset])
    return quadrants


def load_quadrants(diagnosis: str | Path) -> dict[Cell, Quadrants]:
    """Quadrants by cell, of what `diagnose_cells` wrote to diagnosis.json."""
    return {
        Cell(*(record[name] for name in COORDINATES)): Quadrants(
            **{field.name: record[field.name] for field in fields(Quadrants)}
        )
        for record in read_result(diagnosis)["cells"]
    }


def as_record(cell: Cell, found: Quadrants) -> dict[str, Any]:
    """A cell and its quadrants as diagnosis.json has them."""
    return {**vars(cell), **asdict(found)}


def share(part: int | None, whole: int | None) -> float | None:
    """A part of a whole as a percentage; None where one is unknown, or nothing was counted."""
    return 100 * part / whole if part is not None and whole else None


def _index(question_ids: Sequence[str]) -> Any:
    import pandas as pd

    return pd.Index(question_ids)


def _truth(column: Any) -> tuple[Array, Array]:
    """(what is true, what is known) of a column of true, false and None."""
    known_Q = column.notna().to_numpy()
    true_Q = known_Q.copy()
    true_Q[known_Q] = column.to_numpy()[known_Q].astype(bool)
    return true_Q, known_Q


def _count(sheet: Sheet, cell: Cell, frame: Any, order: Array, clusters_Q: Array) -> Quadrants:
    """The quadrants of one cell: `order` has the place in the sheet of each of its answers."""
    metric, parts_QP = METRICS[sheet.metric], sheet.parts_CQP[sheet.place_of[cell]][order]
    there_Q, known_Q = _truth(frame["held"])
    capped_Q, measured_Q = _truth(frame["at_cap"])
    absent_Q, other_Q = known_Q & ~there_Q, measured_Q & ~capped_Q
    counts: Mapping[str, int | None] = dict.fromkeys(CLASSES)
    use: tuple[float | None, float | None] = None, None
    if metric.combination == "mean" and len(metric.parts) == 1:
        scores_Q = sheet.of_questions(cell)[order]
        right_Q = scores_Q >= RIGHT
        quadrants = there_Q & right_Q, there_Q & ~right_Q, absent_Q & right_Q, absent_Q & ~right_Q
        counts = {name: int(own_Q.sum()) for name, own_Q in zip(CLASSES, quadrants, strict=True)}
        use = _use(scores_Q, there_Q, absent_Q, clusters_Q[order])

    def points(own_Q: Array) -> float | None:
        return float(combine(metric.combination, list(parts_QP[own_Q].mean(axis=0)))) if own_Q.any() else None

    return Quadrants(
        questions=len(frame),
        there=int(there_Q.sum()),
        absent=int(absent_Q.sum()),
        **counts,
        copied=int(frame["copied"].to_numpy().sum()),
        cut=int((frame["cut"].to_numpy() > 0).sum()),
        measured=int(measured_Q.sum()),
        at_cap=int(capped_Q.sum()),
        empty=int((frame["prediction"] == "").sum()),
        distinct=int(frame["prediction"].nunique()),
        points_capped=points(capped_Q),
        points_other=points(other_Q),
        points_use=use[0],
        points_use_high=use[1],
    )


def _use(scores_Q: Array, there_Q: Array, absent_Q: Array, clusters_Q: Array) -> tuple[float | None, float | None]:
    """How much higher questions score whose passages hold an answer, and the upper 95 % bound: a jackknife by cluster.

    As in `scoring.statistics`, whole documents are left out.
    """
    means, left = [], []
    for own_Q in (there_Q, absent_Q):
        sizes_G = np.bincount(clusters_Q, own_Q)
        if np.count_nonzero(sizes_G) < 2:
            return None, None
        sums_G = np.bincount(clusters_Q, own_Q * scores_Q)
        means.append(sums_G.sum() / sizes_G.sum())
        left.append((sums_G.sum() - sums_G) / (sizes_G.sum() - sizes_G))
    value, left_G = means[0] - means[1], left[0] - left[1]
    count = len(left_G)
    se = np.sqrt((count - 1) / count * ((left_G - left_G.mean()) ** 2).sum())
    return float(value), float(value + t_quantile((1 + LEVEL) / 2, count - 1) * se)
