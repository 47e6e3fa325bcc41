"""LoRA (arXiv 2106.09685), through peft, on the query, key and value projections of every self-attention.

Decoder and neighbor encoder are covered, cross-attention is not, as in the authors' code. Departures from it:

- Query, key and value have a down projection each, as these models and those of the hub store them apart; the authors'
  fused projection shares one. `num_lora_parameters` counts both.
- The down projection starts as peft's (uniform, Kaiming) instead of normal(0, 0.2); the up projection is zero in both.
- peft scales the update by alpha / rank; alpha is the rank unless the configuration says otherwise: scale 1, as theirs.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from retrotune.entries import PositiveInt, Share
from retrotune.methods.base import Method, Shape, TargetedMethod

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn


class LoraMethod(TargetedMethod):
    """Low-rank updates of the self-attention's query, key and value projections, in decoder and encoder."""

    kind: Literal["lora"]
    rank: PositiveInt = Field(32, description="rank")
    alpha: float | None = Field(None, gt=0, description="scale is alpha / rank; null: alpha = rank, scale 1")
    dropout: Share = Field(0.0, description="dropout before the down projection")


def attach_lora(model: "nn.Module", entry: LoraMethod) -> "PeftModel":
    """Wrap `model` with a fresh LoRA, which changes nothing until trained.

    Raises `MethodError` for a layer without the three projections, and for targets that are not there or not linear.
    """
    from peft import LoraConfig, TaskType

    from retrotune.methods import targets

    if not entry.chosen:
        targets.check_layers(model, (targets.QUERY, targets.KEY, targets.VALUE), entry.kind)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=entry.rank,
        lora_alpha=entry.rank if entry.alpha is None else entry.alpha,
        lora_dropout=entry.dropout,
        target_modules=targets.chosen(model, entry.chosen, entry.kind) if entry.chosen else targets.QUERY_KEY_VALUE,
    )
    return targets.put(model, config, entry)


def num_lora_parameters(num_layers: int, hidden_size: int, rank: int, fused: bool = False) -> int:
    """Weights of a LoRA with heads that together are as wide as the model; `num_layers` includes the encoder's.

    Each layer has 3 x (width x rank + rank x width). With a fused projection (`fused`, the authors' count) the three
    share the down projection: width x rank + rank x 3 width, two thirds as many.
    """
    return num_layers * hidden_size * rank * (4 if fused else 6)


def _num_parameters(entry: LoraMethod, shape: Shape) -> int:
    return shape.all_layers * entry.rank * (3 * shape.hidden_size + shape.query_size + 2 * shape.key_size)


METHOD = Method(
    schema=LoraMethod,
    attach=attach_lora,
    saves="adapter",
    peft_type="LORA",
    prefix="lora_",
    num_parameters=_num_parameters,
)
