"""IA3 (arXiv 2205.05638), through peft: keys, values and the MLP's inner activations are rescaled by trained vectors.

A vector as wide as the keys multiplies them, one the values, and one the input of the MLP's down projection, in every
layer of decoder and neighbor encoder; cross-attention stays as it is, as for the other methods. All start at one, so
that a fresh one changes nothing. The paper's recipe is a learning rate of 3e-3.

- Keys are scaled before rotary positions and before a norm of their own, where a model has these (Qwen3).
- Where a hub model has one fused projection for queries, keys and values, its whole output is scaled, queries as well,
  as peft does by default. Without rotary positions (GPT-2) that can express the same attention scores and no others, as
  a query's factor and its key's only occur as a product; with them (Pythia) it can express a little more.
- A model without a down projection of a known name in each MLP, a mixture of experts say, is refused.
"""

from typing import TYPE_CHECKING, Literal

from retrotune.errors import MethodError
from retrotune.methods.base import Method, Shape, TrainedMethod

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn


class Ia3Method(TrainedMethod):
    """Rescaled keys, values and inner activations of the MLP, in decoder and encoder."""

    kind: Literal["ia3"]


def attach_ia3(model: "nn.Module", entry: Ia3Method) -> "PeftModel":
    """Wrap `model` with fresh IA3 vectors, which change nothing until trained.

    Raises `MethodError` if the model lacks key and value projections or down projections of known names, or has not as
    many of one as its layers need.
    """
    from peft import IA3Config, TaskType, get_peft_model
    from transformers.pytorch_utils import Conv1D

    from retrotune.methods import targets

    attention = targets.SELF_ATTENTION + r"(?:\.attention)?\."
    split, fused = attention + "[kv]_proj", attention + "(?:query_key_value|qkv_proj|c_attn|Wqkv)"
    down = targets.MLP + r"\.(?:down_proj|dense_4h_to_h|c_proj|fc2|fc_out)"
    keys_values = targets.find(model, f"{split}|{fused}", "key and value projections", entry.kind)
    downs = targets.find(model, down, "down projection of an MLP", entry.kind)
    halves = sum(name.endswith(("k_proj", "v_proj")) for name in keys_values)
    layers = halves // 2 + len(keys_values) - halves
    if halves % 2 or layers != len(downs):
        raise MethodError(
            f"ia3: {type(model).__name__} has {len(keys_values)} key and value projections but {len(downs)} down "
            f"projections with known names, where each layer needs both; mend the patterns in {__name__}"
        )
    config = IA3Config(
        task_type=TaskType.CAUSAL_LM,
        target_modules=f"{split}|{fused}|{down}",
        feedforward_modules=down,
        fan_in_fan_out=isinstance(model.get_submodule(downs[0]), Conv1D),
    )
    return get_peft_model(model, config)


def _num_parameters(entry: Ia3Method, shape: Shape) -> int:
    """Keys and values have a projection each here."""
    return shape.all_layers * (2 * shape.key_size + shape.intermediate_size)


METHOD = Method(
    schema=Ia3Method,
    attach=attach_ia3,
    saves="adapter",
    peft_type="IA3",
    prefix="ia3_",
    num_parameters=_num_parameters,
)
