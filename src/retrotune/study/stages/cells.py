"""What the stages of a cell use."""

from typing import Any, Literal

from retrotune.data.datasets.base import Template
from retrotune.entries import Count, Entry, Family, PositiveInt
from retrotune.study.config import Finetuning, MethodEntry, PassageLayout
from retrotune.study.stages.base import StageParams


class Prompting(Entry):
    """How a cell's questions become sequences, the same in training and in prediction."""

    family: Family
    template: Template
    layout: PassageLayout
    max_length: PositiveInt
    max_new_tokens: PositiveInt
    virtual_tokens: Count = 0
    may_lack_passages: bool = False
    """Whether a question may have fewer passages than the layout asks for: documents are short, gold finds what is."""


class BaseUse(Entry):
    """How a cell uses its base model."""

    precision: Literal["float32", "bfloat16"] = "float32"
    retrieval_gate: float | None = None
    trust_remote_code: bool = False


class FinetuneParams(StageParams):
    """What trains a cell; `method` comes without overrides of the recipe, which has them."""

    stage = "finetune_cell"
    version = 3

    prompting: Prompting
    base: BaseUse = BaseUse()
    method: MethodEntry
    recipe: Finetuning

    def recorded(self) -> dict[str, Any]:
        """All values, without the method's overrides of the recipe, which are none here."""
        values = super().recorded()
        values["method"].pop("finetuning", None)
        return values


class PredictParams(StageParams):
    """What answers a cell's test questions."""

    stage = "predict_cell"
    version = 5

    prompting: Prompting
    base: BaseUse = BaseUse()
    batch_size: PositiveInt


class ScoreParams(StageParams):
    """What scores a cell's answers."""

    stage = "score_cell"
    version = 7

    metrics: tuple[str, ...]
    """The headline first."""
