"""P-tuning as a peft method, with peft's prompt encoder and the authors' order of tokens.

peft's own P-tuning model builds [virtual][left padding][prompt], turns the attention mask into floats and drops the
position ids. Here the order is

    [left padding][virtual][prompt][answer][right padding]

Batches carry `num_virtual_tokens` placeholder tokens, attended and without label, right after the left padding, so
that masks, labels, chunk borders and sequence lengths are those of ordinary tokens, and generated sequences begin with
the ids that were given. The embeddings of the first `num_virtual_tokens` attended positions of each row are replaced by
the prompt encoder's output just before the base model runs; positions are counted from the mask. In cached generation
the mask covers the past, so that the same rule finds nothing to replace after the first step. Neighbors stay as
they are.

The prompt encoder is peft's `PromptEncoder`, an embedding and an MLP of three linear maps with ReLU (the authors': two,
with GELU). All of it is trained and saved, so that training can be continued; the base model is frozen.
"""

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig, PromptEncoder, PromptEncoderConfig
from torch import nn
from transformers import PreTrainedModel

from retrotune.errors import MethodError
from retrotune.methods.names import PTUNING_PREFIX, PTUNING_TYPE
from retrotune.methods.peft_extension import AddedLayer, AddedModel, register_method


@dataclass
class PtuningConfig(PeftConfig):
    """Configuration of P-tuning in the authors' order of tokens."""

    num_virtual_tokens: int = field(
        default=100, metadata={"help": "virtual tokens, each with a placeholder in the batch"}
    )
    encoder_hidden_size: int = field(default=2048, metadata={"help": "width of the prompt encoder's MLP"})
    target_modules: list[str] | None = field(
        default=None, metadata={"help": "name of the input embedding; found in the model"}
    )

    def __post_init__(self) -> None:
        """Name the method for peft."""
        super().__post_init__()
        self.peft_type = PTUNING_TYPE


class PtuningLayer(AddedLayer):
    """The input embedding with prompt encoders beside it, one per adapter name. Called, it is the plain embedding."""

    adapter_layer_names = ("ptuning_encoder",)

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.ptuning_encoder = nn.ModuleDict()

    def update_layer(self, adapter_name: str, config: PtuningConfig) -> None:
        """Add a fresh prompt encoder, on the device and in the number type of the embedding."""
        self.ptuning_encoder[adapter_name] = PromptEncoder(
            PromptEncoderConfig(
                num_virtual_tokens=config.num_virtual_tokens,
                token_dim=self.weight.shape[1],
                num_transformer_submodules=1,
                encoder_hidden_size=config.encoder_hidden_size,
            )
        )
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings of token ids, none of them virtual."""
        return self.base_layer(ids)

    def virtual_tokens(self, adapter_name: str) -> torch.Tensor:
        """The prompt encoder's output, [virtual tokens, D]."""
        encoder: PromptEncoder = self.ptuning_encoder[adapter_name]
        return encoder(torch.arange(encoder.total_virtual_tokens, device=encoder.embedding.weight.device))


class PtuningModel(AddedModel):
    """peft's wrapper of a base model with virtual tokens."""

    prefix = PTUNING_PREFIX
    tuner_layer_cls = PtuningLayer

    def inject_adapter(self, model: PreTrainedModel, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Put the prompt encoder beside the input embedding, whatever the model calls it."""
        embedding = model.get_input_embeddings()
        name = next(name for name, module in model.named_modules() if module is embedding)
        self.peft_config[adapter_name].target_modules = [name]
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def _create_and_replace(
        self,
        peft_config: PtuningConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        layer = target
        if not isinstance(layer, PtuningLayer):
            layer = PtuningLayer(target)
            layer._active_adapter = self.active_adapters
            self._replace_module(parent, target_name, layer, target)
        layer.update_layer(adapter_name, peft_config)

    def _check_tied_modules(self, model: nn.Module, peft_config: PeftConfig) -> None:
        """Tied embeddings are no concern: the embedding is neither changed nor saved."""

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """As peft's, for weights that lie deeper below the adapter's name than peft expects."""
        return re.sub(rf"(\.ptuning_encoder)\.{re.escape(adapter_name)}\.", r"\1.", key)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """peft enters this around each `forward` and `generate`, unless adapters are disabled."""
        handle = self.model.register_forward_pre_hook(self._place_virtual_tokens, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _place_virtual_tokens(
        self, model: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Give `model` the embeddings of its tokens with the virtual ones in place; ids without any pass unchanged."""
        kwargs = dict(zip(inspect.signature(model.forward).parameters, args, strict=False)) | kwargs
        ids_BT, embeds_BTD = kwargs.get("input_ids"), kwargs.get("inputs_embeds")
        tokens = ids_BT if embeds_BTD is None else embeds_BTD
        if tokens is None:
            raise MethodError("ptuning: the model was called without input_ids and without inputs_embeds")
        layer: PtuningLayer = model.get_input_embeddings()
        config = self.peft_config[self.active_adapters[0]]
        mask_BS = _full_mask(kwargs, tokens)
        num_tokens, num_virtual = tokens.shape[1], config.num_virtual_tokens
        order_BT = mask_BS.cumsum(1)[:, -num_tokens:] - 1
        virtual_BT = mask_BS[:, -num_tokens:].bool() & (order_BT < num_virtual)
        if kwargs.get("position_ids") is None and "position_ids" in inspect.signature(model.forward).parameters:
            kwargs["position_ids"] = order_BT.clamp(min=0)
        if not virtual_BT.any():
            return (), kwargs
        _check_room(mask_BS, num_virtual, model)
        if embeds_BTD is None:
            embeds_BTD = layer(ids_BT)
        table_VD = layer.virtual_tokens(self.active_adapters[0]).to(embeds_BTD.dtype)
        placed_BTD = table_VD[order_BT.clamp(0, num_virtual - 1)]
        embeds_BTD = torch.where(virtual_BT[..., None], placed_BTD, embeds_BTD)
        return (), kwargs | {"input_ids": None, "inputs_embeds": embeds_BTD}


def _full_mask(kwargs: dict[str, Any], tokens: torch.Tensor) -> torch.Tensor:
    """The integer mask over past and present positions, [B, S]; without one, all are attended."""
    mask_BS = kwargs.get("attention_mask")
    if mask_BS is None:
        past = kwargs.get("past_key_values")
        length = tokens.shape[1] + (0 if past is None else past.get_seq_length())
        return torch.ones(tokens.shape[0], length, dtype=torch.long, device=tokens.device)
    if not isinstance(mask_BS, torch.Tensor) or mask_BS.dim() != 2:
        raise MethodError(
            "ptuning needs a two-dimensional attention mask (one row per sequence) to find the placeholders"
        )
    return mask_BS.long()


def _check_room(mask_BS: torch.Tensor, num_virtual: int, model: PreTrainedModel) -> None:
    """Each row must hold all placeholders, and the longest must fit the model's window."""
    shortest, longest = int(mask_BS.sum(1).min()), int(mask_BS.sum(1).max())
    if shortest < num_virtual:
        raise MethodError(
            f"ptuning: a row attends to {shortest} tokens but {num_virtual} placeholders are needed; "
            "put num_virtual_tokens placeholders behind the left padding of each row"
        )
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if window is not None and longest > window:
        raise MethodError(
            f"ptuning: {longest} tokens, {num_virtual} virtual ones among them, exceed the model's window of "
            f"{window}; shorten the prompt or lower num_virtual_tokens"
        )


register_method(PTUNING_TYPE, PtuningConfig, PtuningModel)
