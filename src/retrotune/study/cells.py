"""The grid of a study: a cell is one (model, method, dataset, retrieval, seed)."""

import itertools
from dataclasses import dataclass
from typing import Any

from retrotune.errors import ConfigError
from retrotune.study.config import Config, nearest

COORDINATES = ("model", "method", "dataset", "retrieval", "seed")


@dataclass(frozen=True, order=True)
class Cell:
    """The unit of work, of cost, of rerun and of reading results."""

    model: str
    method: str
    dataset: str
    retrieval: str
    seed: int

    @classmethod
    def of(cls, wildcards: Any) -> "Cell":
        """The cell that a rule's wildcards name."""
        names = {name: str(getattr(wildcards, name)) for name in COORDINATES[:-1]}
        return cls(**names, seed=int(wildcards.seed))

    @property
    def name(self) -> str:
        """Relative folder of the cell, also its name in messages."""
        return f"{self.model}/{self.method}/{self.dataset}/{self.retrieval}/seed{self.seed}"


def _selects(wanted: Any, value: Any) -> bool:
    if wanted is None:
        return True
    return str(value) in [str(item) for item in (wanted if isinstance(wanted, tuple) else (wanted,))]


def grid_cells(config: Config) -> list[Cell]:
    """All cells of the study, the union of its grids, before `select`."""
    cells: dict[Cell, None] = {}
    for grid in config.grid:
        axes = (
            grid.models or tuple(config.models),
            grid.methods or tuple(config.methods),
            grid.datasets or tuple(config.datasets),
            grid.retrievals,
            grid.seeds,
        )
        cells.update((Cell(*point), None) for point in itertools.product(*axes))
    return list(cells)


def expand_grid(config: Config) -> list[Cell]:
    """Cells of the study, narrowed by `select`.

    Raises `ConfigError` if a selected value is no coordinate of the grid (with the nearest one) or nothing is left.
    """
    cells = grid_cells(config)
    select = config.select

    def coordinates(cell: Cell) -> dict[str, Any]:
        model = config.models[cell.model]
        return {**{key: getattr(cell, key) for key in COORDINATES}, "family": model.family, "size": model.size}

    points = [coordinates(cell) for cell in cells]
    for key, wanted in select.model_dump(exclude_none=True).items():
        known = sorted({str(point[key]) for point in points})
        for value in wanted if isinstance(wanted, tuple | list) else (wanted,):
            if str(value) not in known:
                raise ConfigError(f"select.{key}: {value!r} is not in the grid; {nearest(str(value), known)}")
    chosen = [
        cell
        for cell, point in zip(cells, points, strict=True)
        if all(_selects(getattr(select, key), value) for key, value in point.items())
    ]
    if not chosen:
        raise ConfigError(f"select leaves no cell of {len(cells)}: {select.model_dump(exclude_none=True)}")
    return chosen
