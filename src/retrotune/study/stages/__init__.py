"""Stages: what each one uses of a study, and the number of its code.

A stage's class is its declaration: the resolved values that the stage works with, not the fields that somebody wrote.
The stage's rule passes `text()` of it, its function takes it and nothing else of the configuration, and `explain`
prints it. So a rule runs again exactly when a value changes that its stage uses, or the stage's number: Snakemake does
not see changes inside the package. Raise `version` when a stage's output changes for the same input, or a default does.

`study.resolve` makes these values from a configuration. What reruns nothing is listed there, with the reasons.
"""

from collections.abc import Mapping

from retrotune.study.stages.base import Files, ReadsRaw, StageParams
from retrotune.study.stages.cells import BaseUse, FinetuneParams, PredictParams, Prompting, ScoreParams
from retrotune.study.stages.chain import (
    BuildIndexParams,
    CacheNeighborsParams,
    CacheTextNeighborsParams,
    ChunkCorpusParams,
    ChunkParams,
    ConvertParams,
    DownloadSourceParams,
    EmbedParams,
    FetchParams,
    MeasureRetrievalParams,
    PrepareParams,
    PrepareTestParams,
    PrepareTrainParams,
    PretrainParams,
    RetrofitParams,
    Searching,
    TrainTokenizerParams,
    WriteWorldParams,
)
from retrotune.study.stages.report import (
    Beside,
    CellLabels,
    ClaimTestParams,
    CollectAnswersParams,
    CollectParams,
    DiagnoseParams,
    DrawFiguresParams,
    MakeTablesParams,
    MethodLabels,
    ModelLabels,
    ReportRetrievalParams,
    WriteReportParams,
)

__all__ = [
    "STAGES",
    "VERSIONS",
    "BaseUse",
    "Beside",
    "BuildIndexParams",
    "CacheNeighborsParams",
    "CacheTextNeighborsParams",
    "CellLabels",
    "ChunkCorpusParams",
    "ChunkParams",
    "ClaimTestParams",
    "CollectAnswersParams",
    "CollectParams",
    "ConvertParams",
    "DiagnoseParams",
    "DownloadSourceParams",
    "DrawFiguresParams",
    "EmbedParams",
    "FetchParams",
    "Files",
    "FinetuneParams",
    "MakeTablesParams",
    "MeasureRetrievalParams",
    "MethodLabels",
    "ModelLabels",
    "PredictParams",
    "PrepareParams",
    "PrepareTestParams",
    "PrepareTrainParams",
    "PretrainParams",
    "Prompting",
    "ReadsRaw",
    "ReportRetrievalParams",
    "RetrofitParams",
    "ScoreParams",
    "Searching",
    "StageParams",
    "TrainTokenizerParams",
    "WriteReportParams",
    "WriteWorldParams",
]


def _all(base: type[StageParams]) -> list[type[StageParams]]:
    return [found for child in base.__subclasses__() for found in (child, *_all(child))]


STAGES: Mapping[str, type[StageParams]] = {cls.stage: cls for cls in _all(StageParams) if "stage" in vars(cls)}
VERSIONS = {name: cls.version for name, cls in STAGES.items()}
"""The number of each stage's code, as results record them."""
