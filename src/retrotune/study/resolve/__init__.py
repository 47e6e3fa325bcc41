"""From a configuration to what each stage uses: one function per stage, called with the wildcards of its rule.

Values are resolved here: a preset becomes the keys that it fills, a prompt's name its text, a retrieval the layout of
the cell's family, a method's overrides the recipe that trains it.
"""

from retrotune.study.artifacts import Artifacts
from retrotune.study.cells import Cell
from retrotune.study.config import Config
from retrotune.study.resolve import cells, chain
from retrotune.study.resolve.registry import RESOLVERS, Wildcards
from retrotune.study.resolve.report import (
    claim_testing,
    collecting,
    collecting_answers,
    diagnosing,
    drawing_figures,
    making_tables,
    writing_report,
)
from retrotune.study.stages import STAGES, StageParams

__all__ = [
    "RERUNS_NOTHING",
    "cell_stages",
    "cells",
    "chain",
    "claim_testing",
    "collecting",
    "collecting_answers",
    "diagnosing",
    "drawing_figures",
    "making_tables",
    "resolve",
    "writing_report",
]

RERUNS_NOTHING: dict[str, str] = {
    "study": "names the folder of results: another study is made from nothing",
    "results_dir": "a place: what is not there is made",
    "resources_dir": "a place: what is not there is made",
    "rule_resources": "what jobs ask of a cluster changes no result",
    "models.resources": "what jobs ask of a cluster changes no result but for rounding",
    "save_every": "a resumed training ends with the same bits",
    "grid": "says which cells there are; their collection runs again",
    "select": "says which cells there are; their collection runs again",
}
"""Fields that no stage of data, retrieval, models or cells uses, and why."""


def resolve(config: Config, stage: str, wildcards: Wildcards) -> StageParams:
    """What a stage uses of a study, for the job with these wildcards; stages without an entry here use nothing."""
    return RESOLVERS[stage](config, wildcards) if stage in RESOLVERS else STAGES[stage]()


def cell_stages(config: Config, cell: Cell) -> dict[str, StageParams]:
    """What each stage of a cell uses, in their order."""
    names = {**vars(cell), "seed": str(cell.seed)}
    return {stage: resolve(config, stage, names) for stage in Artifacts(config).cell_stages(cell)}
