"""IA3 (arXiv 2205.05638), through peft: keys, values and the MLP's inner activations are rescaled by trained vectors.

A vector as wide as the keys multiplies them, one the values, and one the input of the MLP's down projection, in every
layer of decoder and neighbor encoder; cross-attention stays as it is, as for the other methods. All start at one, so
that a fresh one changes nothing. The paper's recipe is a learning rate of 3e-3.

- Keys are scaled before rotary positions and before a norm of their own, where a model has these (Qwen3).
- Where a hub model has one fused projection for queries, keys and values, its whole output is scaled, queries as well,
  as peft does by default. Without rotary positions (GPT-2) that can express the same attention scores and no others, as
  a query's factor and its key's only occur as a product; with them (Pythia) it can express a little more.
- A model without a down projection of a known name in each layer's MLP, a mixture of experts say, is refused unless a
  study names its modules.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from retrotune.methods.base import Method, ModuleName, Shape, TargetedMethod

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn


class Ia3Method(TargetedMethod):
    """Rescaled keys, values and inner activations of the MLP, in decoder and encoder."""

    kind: Literal["ia3"]
    input_targets: tuple[ModuleName, ...] | None = Field(
        None,
        min_length=1,
        description="modules whose input is rescaled instead of their output, such as an MLP's down projection, named "
        "as in `targets`; null: none where there are `targets`",
    )

    @property
    def chosen(self) -> tuple[str, ...]:
        """All modules that the study names; none where they are the method's usual ones."""
        return (*(self.targets or ()), *(self.input_targets or ()))


def attach_ia3(model: "nn.Module", entry: Ia3Method) -> "PeftModel":
    """Wrap `model` with fresh IA3 vectors, which change nothing until trained.

    Raises `MethodError` for a layer without key, value and down projection, and for targets that are not there or not
    linear.
    """
    from peft import IA3Config, TaskType
    from transformers.pytorch_utils import Conv1D

    from retrotune.methods import targets

    if entry.chosen:
        changed = targets.chosen(model, entry.chosen, entry.kind)
        inputs: str | list[str] = []
        if entry.input_targets:
            inputs = targets.chosen(model, entry.input_targets, entry.kind)
    else:
        inputs = targets.MLP + r"\.(?:down_proj|dense_4h_to_h|c_proj|fc2|fc_out)"
        down = targets.Part("down projection of an MLP", inputs)
        targets.check_layers(model, (targets.KEY, targets.VALUE, down), entry.kind)
        changed = f"{targets.PROJECTIONS}[kv]_proj|{targets.FUSED}|{inputs}"
    config = IA3Config(
        task_type=TaskType.CAUSAL_LM,
        target_modules=changed,
        feedforward_modules=inputs,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )
    return targets.put(model, config, entry)


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
