"""What the stages use that make something of all cells."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from retrotune.entries import Entry, Family, PositiveInt
from retrotune.study.config import Claim
from retrotune.study.config.published import PublishedNumber
from retrotune.study.stages.base import StageParams


class ModelLabels(Entry):
    """What tables say of a model beside its results."""

    family: Family
    size: str
    instruct: bool = False
    retrieval_gate: float | None = None
    replicate_of: str | None = None


class CellLabels(ModelLabels):
    """A cell and what tables say of it beside its results."""

    model: str
    method: str
    dataset: str
    retrieval: str
    seed: int
    kind: str
    trained: bool
    metric: str


class MethodLabels(Entry):
    """What tables and claims say of a method."""

    kind: str
    trained: bool


class CollectParams(StageParams):
    """The study's cells in order, their models and methods, and the datasets' headline metrics."""

    stage = "collect_metrics"
    version = 6

    study: str
    cells: tuple[tuple[str, str, str, str, int], ...]
    models: dict[str, ModelLabels]
    methods: dict[str, MethodLabels]
    datasets: dict[str, str]

    def labels(self) -> Iterator[CellLabels]:
        """Each cell with its labels."""
        for model, method, dataset, retrieval, seed in self.cells:
            yield CellLabels(
                model=model,
                method=method,
                dataset=dataset,
                retrieval=retrieval,
                seed=seed,
                metric=self.datasets[dataset],
                **dict(self.methods[method]),
                **dict(self.models[model]),
            )


class Beside(Entry):
    """A published number, and the names of the cells whose rows it stands beside."""

    number: PublishedNumber
    dataset: str
    models: tuple[str, ...]
    methods: tuple[str, ...]
    retrievals: tuple[str, ...]


class MakeTablesParams(StageParams):
    """The names of the tables, the fewest resamples of their tests, and published numbers."""

    stage = "make_tables"
    version = 4

    tables: tuple[str, ...]
    resamples: PositiveInt
    published: tuple[Beside, ...] = ()


class CollectAnswersParams(StageParams):
    """Of each dataset the most tokens of an answer, and whether a passage can hold one."""

    stage = "collect_answers"
    version = 1

    max_new_tokens: dict[str, PositiveInt]
    gold: dict[str, bool]


class DiagnoseParams(StageParams):
    """The effect, in points, that the study's intervals should be narrow enough for."""

    stage = "diagnose_cells"
    version = 1

    effect: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class DrawFiguresParams(StageParams):
    """The names of the figures."""

    stage = "draw_figures"
    version = 5

    figures: tuple[str, ...]


class ClaimTestParams(StageParams):
    """Claims with their names, in order, and the kind of retriever of each retrieval that cells use."""

    stage = "test_claims"
    version = 1

    claims: tuple[tuple[str, Claim], ...]
    retrievals: dict[str, str]
    resamples: PositiveInt


class ReportRetrievalParams(StageParams):
    """(retrieval, dataset) of what was measured, in order."""

    stage = "report_retrieval"
    version = 2

    pairs: tuple[tuple[str, str], ...]


class WriteReportParams(StageParams):
    """The study's name, and the tables and figures that it has."""

    stage = "write_report"
    version = 1

    study: str
    tables: tuple[str, ...]
    figures: tuple[str, ...]
