"""Bottleneck adapters as the authors use them (NeMo's `parallel_adapter`); `bottleneck.py` holds peft's classes.

After every self-attention and every MLP, before the residual is added, the branch's output a becomes

    a + dropout(up(swish(down(LayerNorm(a)))))

in the decoder and in the neighbor encoder, each with a bottleneck of its own. There is none after cross-attention.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from retrotune.entries import PositiveInt, Share
from retrotune.methods.base import Method, Shape, TargetedMethod
from retrotune.methods.names import ADAPTER_PREFIX, ADAPTER_TYPE

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn


class AdapterMethod(TargetedMethod):
    """Parallel bottleneck adapters on the output of self-attention and MLP, in decoder and encoder."""

    kind: Literal["adapter"]
    bottleneck_dim: PositiveInt = Field(32, description="hidden width in the decoder")
    encoder_bottleneck_dim: PositiveInt | None = Field(None, description="hidden width in the encoder; null: the same")
    dropout: Share = Field(0.1, description="dropout on the adapter's output")


def attach_adapter(model: "nn.Module", entry: AdapterMethod) -> "PeftModel":
    """Wrap `model` with fresh adapters; its output is unchanged until trained.

    Raises `MethodError` for a layer without self-attention or MLP of a known name, for targets that are not there, and
    for modules whose output cannot be adapted.
    """
    from peft import TaskType

    from retrotune.methods import targets
    from retrotune.methods.bottleneck import AdapterConfig, check_adaptable

    config = AdapterConfig(
        task_type=TaskType.CAUSAL_LM,
        bottleneck_dim=entry.bottleneck_dim,
        encoder_bottleneck_dim=entry.encoder_bottleneck_dim,
        dropout=entry.dropout,
    )
    if entry.chosen:
        config.target_modules = targets.chosen(model, entry.chosen, entry.kind, linear=False)
    else:
        parts = (targets.Part("self-attention", targets.SELF_ATTENTION), targets.Part("MLP", targets.MLP))
        targets.check_layers(model, parts, entry.kind, linear=False)
    check_adaptable(model, config)
    return targets.put(model, config, entry)


def num_adapter_parameters(num_layers: int, hidden_size: int, bottleneck_dim: int) -> int:
    """Weights of the adapters of `num_layers` layers: two each, of down, up and LayerNorm."""
    return num_layers * 2 * (2 * hidden_size * bottleneck_dim + 2 * hidden_size)


def _num_parameters(entry: AdapterMethod, shape: Shape) -> int:
    encoder_dim = entry.encoder_bottleneck_dim or entry.bottleneck_dim
    decoder = num_adapter_parameters(shape.num_layers, shape.hidden_size, entry.bottleneck_dim)
    return decoder + num_adapter_parameters(shape.encoder_layers, shape.hidden_size, encoder_dim)


METHOD = Method(
    schema=AdapterMethod,
    attach=attach_adapter,
    saves="adapter",
    peft_type=ADAPTER_TYPE,
    prefix=ADAPTER_PREFIX,
    extension="retrotune.methods.bottleneck",
    num_parameters=_num_parameters,
)
