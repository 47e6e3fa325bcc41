"""LoRA (arXiv 2106.09685), through peft, on the query, key and value projections of every self-attention.

Decoder and neighbor encoder are covered, cross-attention is not, as in the authors' code. Departures from it:

- Query, key and value have a down projection each, as these models and those of the hub store them apart; the authors'
  fused projection shares one. `num_lora_parameters` counts both.
- The down projection starts as peft's (uniform, Kaiming) instead of normal(0, 0.2); the up projection is zero in both.
- peft scales the update by alpha / rank; alpha is the rank unless the configuration says otherwise: scale 1, as theirs.
"""

from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import nn

from retrotune.config import LoraMethod
from retrotune.methods import targets


def attach_lora(model: nn.Module, method: LoraMethod) -> PeftModel:
    """Wrap `model` with a fresh LoRA, which changes nothing until trained. `MethodError` if it finds no projection."""
    targets.find(model, targets.QUERY_KEY_VALUE, "query, key and value projections", "lora")
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=method.rank,
        lora_alpha=method.rank if method.alpha is None else method.alpha,
        lora_dropout=method.dropout,
        target_modules=targets.QUERY_KEY_VALUE,
    )
    return get_peft_model(model, config)


def num_lora_parameters(num_layers: int, hidden_size: int, rank: int, fused: bool = False) -> int:
    """Weights of a LoRA with heads that together are as wide as the model; `num_layers` includes the encoder's.

    Each layer has 3 x (width x rank + rank x width). With a fused projection (`fused`, the authors' count) the three
    share the down projection: width x rank + rank x 3 width, two thirds as many.
    """
    return num_layers * hidden_size * rank * (4 if fused else 6)
