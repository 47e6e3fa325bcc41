"""P-tuning (arXiv 2103.10385): trained vectors take the places of virtual tokens in front of the decoder's prompt.

    [left padding][virtual][prompt][answer][right padding]

Batches carry a placeholder token for each. `prompt_encoder.py` holds peft's classes, and says how they differ from
peft's own P-tuning.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from retrotune.entries import PositiveInt
from retrotune.errors import MethodError
from retrotune.methods.base import Method, Shape, TrainedMethod
from retrotune.methods.names import PTUNING_PREFIX, PTUNING_TYPE

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class PtuningMethod(TrainedMethod):
    """Virtual tokens in front of the decoder's prompt, made by peft's prompt encoder (an MLP of three linear maps)."""

    kind: Literal["ptuning"]
    num_virtual_tokens: PositiveInt = Field(100, description="virtual tokens")
    encoder_hidden_size: PositiveInt = Field(2048, description="width of the prompt encoder's MLP")


def attach_ptuning(model: "PreTrainedModel", entry: PtuningMethod) -> "PeftModel":
    """Wrap `model` with a fresh prompt encoder; batches must carry the placeholders from then on."""
    from peft import TaskType, get_peft_model

    from retrotune.methods.prompt_encoder import PtuningConfig

    window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if window is not None and entry.num_virtual_tokens >= window:
        raise MethodError(
            f"ptuning: num_virtual_tokens={entry.num_virtual_tokens} leaves no room in the model's window of {window}"
        )
    config = PtuningConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=entry.num_virtual_tokens,
        encoder_hidden_size=entry.encoder_hidden_size,
    )
    return get_peft_model(model, config)


def _num_virtual_tokens(entry: PtuningMethod) -> int:
    return entry.num_virtual_tokens


def _num_parameters(entry: PtuningMethod, shape: Shape) -> int:
    """An embedding of the virtual tokens, and an MLP of three linear maps with biases."""
    width, inner = shape.hidden_size, entry.encoder_hidden_size
    return entry.num_virtual_tokens * width + (width + 1) * inner + (inner + 1) * inner + (inner + 1) * width


METHOD = Method(
    schema=PtuningMethod,
    attach=attach_ptuning,
    saves="adapter",
    peft_type=PTUNING_TYPE,
    prefix=PTUNING_PREFIX,
    extension="retrotune.methods.prompt_encoder",
    num_virtual_tokens=_num_virtual_tokens,
    num_parameters=_num_parameters,
)
