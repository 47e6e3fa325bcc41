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
from retrotune.report.tables.measures import Measures, scored
from retrotune.runtime.files import read_parquet, read_result
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
    columns, places = _columns(answers)
    order_A = _orders(measures, columns.pop("question_id"), places)
    codes = {dataset: np.unique(sheet.clusters, return_inverse=True)[1] for dataset, sheet in measures.sheets.items()}
    quadrants = {}
    for cell in scored(measures.results):
        sheet, own = measures.sheets[cell.dataset], places.get(cell, np.array([], dtype=int))
        order_Q = order_A[own]
        if len(order_Q) != len(sheet.question_ids) or order_Q.min() < 0:
            raise ResultError(
                f"{answers}: not the questions that {cell.name} was scored on; run snakemake, which collects them again"
            )
        taken = {name: values[own] for name, values in columns.items()}
        quadrants[cell] = _count(sheet, cell, taken, order_Q, codes[cell.dataset][order_Q])
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


def _columns(answers: str | Path) -> tuple[dict[str, Any], dict[Cell, Array]]:
    """Whole columns of the answers A of all cells, and the places of each cell's: the cells are too many for frames.

    A column that has unknown values is one of what is true, and one of what is known.
    """
    import pandas as pd

    names = ["question_id", "prediction", "held", "copied", "cut", "at_cap"]
    frame = read_parquet(answers, [*COORDINATES, *names])
    places = frame.groupby(list(COORDINATES), observed=True, sort=False).indices
    columns = {
        "question_id": frame["question_id"],
        "prediction": pd.factorize(frame["prediction"])[0],
        "empty": (frame["prediction"] == "").to_numpy(dtype=bool),
        "copied": frame["copied"].to_numpy(dtype=bool),
        "cut": frame["cut"].to_numpy() > 0,
    }
    for name in ("held", "at_cap"):
        known_A = frame[name].notna().to_numpy(dtype=bool)
        columns[name], columns[f"{name}_known"] = known_A.copy(), known_A
        columns[name][known_A] = frame[name].to_numpy()[known_A].astype(bool)
    return columns, {Cell(*coordinates): own for coordinates, own in places.items()}


def _orders(measures: Measures, question_ids: Any, places: Mapping[Cell, Array]) -> Array:
    """The place of each answer's question in the sheet of its dataset, -1 where it has none."""
    import pandas as pd

    order_A = np.full(len(question_ids), -1)
    for dataset, sheet in measures.sheets.items():
        own = [places[cell] for cell in places if cell.dataset == dataset]
        if own:
            rows = np.concatenate(own)
            order_A[rows] = pd.Index(sheet.question_ids).get_indexer(question_ids.iloc[rows])
    return order_A


def _count(sheet: Sheet, cell: Cell, taken: Mapping[str, Array], order_Q: Array, clusters_Q: Array) -> Quadrants:
    """The quadrants of one cell of its `taken` columns; `order_Q` has the place in the sheet of each of its answers."""
    metric, parts_QP = METRICS[sheet.metric], sheet.parts_CQP[sheet.place_of[cell]][order_Q]
    there_Q, capped_Q, measured_Q = taken["held"], taken["at_cap"], taken["at_cap_known"]
    absent_Q, other_Q = taken["held_known"] & ~there_Q, measured_Q & ~capped_Q
    counts: Mapping[str, int | None] = dict.fromkeys(CLASSES)
    use: tuple[float | None, float | None] = None, None
    if metric.combination == "mean" and len(metric.parts) == 1:
        scores_Q = sheet.of_questions(cell)[order_Q]
        right_Q = scores_Q >= RIGHT
        quadrants = there_Q & right_Q, there_Q & ~right_Q, absent_Q & right_Q, absent_Q & ~right_Q
        counts = {name: int(own_Q.sum()) for name, own_Q in zip(CLASSES, quadrants, strict=True)}
        use = _use(scores_Q, there_Q, absent_Q, clusters_Q)

    def points(own_Q: Array) -> float | None:
        return float(combine(metric.combination, list(parts_QP[own_Q].mean(axis=0)))) if own_Q.any() else None

    return Quadrants(
        questions=len(order_Q),
        there=int(there_Q.sum()),
        absent=int(absent_Q.sum()),
        **counts,
        copied=int(taken["copied"].sum()),
        cut=int(taken["cut"].sum()),
        measured=int(measured_Q.sum()),
        at_cap=int(capped_Q.sum()),
        empty=int(taken["empty"].sum()),
        distinct=len(np.unique(taken["prediction"])),
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
