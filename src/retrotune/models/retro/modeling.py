"""RETRO and GPT, one decoder in transformers' conventions.

What is unusual, beside the literature's RETRO (arXiv 2112.04426): norms with stored weight minus one; rotary positions
on half of each head; the neighbor encoder reads the normed stream of the first cross-attention layer and has neither
positions nor a final norm; GPT is the same class with no cross-attention layer.

Which token attends to which neighbors is said in `retrieval.py`.

Shape letters: B batch, T new tokens, N all tokens, L chunks, K neighbors, R retrieved length, D width, V vocabulary.
"""

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from retrotune.errors import ModelError
from retrotune.models.retro.cache import RetroCache
from retrotune.models.retro.configuration import RetroConfig
from retrotune.models.retro.encoder import NeighborEncoder
from retrotune.models.retro.layers import (
    CrossAttention,
    LayerNorm1P,
    Mlp,
    RMSNorm,
    SelfAttention,
    make_norm,
    rotary_angles,
)
from retrotune.models.retro.retrieval import Retrieval


class DecoderLayer(nn.Module):
    """Self-attention, in some layers cross-attention to neighbors, MLP; pre-norm residuals."""

    def __init__(self, config: RetroConfig, layer: int) -> None:
        super().__init__()
        self.input_norm = make_norm(config)
        self.self_attention = SelfAttention(config, layer)
        cross = layer in (config.cross_attention_layers or ())
        self.cross_norm = make_norm(config) if cross else None
        self.cross_attention = CrossAttention(config) if cross else None
        self.mlp_norm = make_norm(config)
        self.mlp = Mlp(config)

    def attend(self, hidden_BTD: torch.Tensor, **attention: Any) -> torch.Tensor:
        """The stream after self-attention."""
        return hidden_BTD + self.self_attention(self.input_norm(hidden_BTD), **attention)

    def transform(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """The stream after the MLP."""
        return hidden_BTD + self.mlp(self.mlp_norm(hidden_BTD))


class RetroPreTrainedModel(PreTrainedModel):
    """Shared conventions."""

    config_class = RetroConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["DecoderLayer", "EncoderLayer"]  # noqa: RUF012

    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=std)
        elif isinstance(module, LayerNorm1P):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, SelfAttention | CrossAttention) and module.key_shift is not None:
            nn.init.zeros_(module.key_shift)


class RetroModel(RetroPreTrainedModel):
    """Decoder and neighbor encoder without the output matrix."""

    def __init__(self, config: RetroConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.neighbor_encoder = NeighborEncoder(config) if config.cross_attention_layers else None
        self.norm = make_norm(config) if config.final_norm else nn.Identity()
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Token embeddings, shared by decoder and encoder."""
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the token embeddings."""
        self.embed_tokens = value

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: RetroCache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        neighbor_ids: torch.Tensor | None = None,
        neighbor_mask: torch.Tensor | None = None,
        retrieval_gate: float | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states [B, T, D] of the new tokens.

        `neighbor_ids` [B, K, R] (one set for all chunks) or [B, L, K, R] (one per chunk; the last one is used again for
        chunks that are generated later); `neighbor_mask` of the same shape hides padding, which is attended without it,
        as NVIDIA does. `attention_mask` [B, past + T] hides padding tokens; positions are counted from it.
        Raises `ModelError` for neighbors of the wrong shape or for a GPT, and for sequences longer than the window.
        """
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        batch, length = hidden.shape[:2]
        cache = past_key_values
        if use_cache and not isinstance(cache, RetroCache):
            cache = RetroCache()
        past = cache.get_seq_length() if cache is not None else 0
        if past + length > self.config.max_position_embeddings:
            raise ModelError(
                f"{past + length} tokens do not fit the window of {self.config.max_position_embeddings} "
                "(max_position_embeddings): shorten the prompt"
            )
        real_BN = None
        if attention_mask is not None and not bool(attention_mask.all()):
            real_BN = attention_mask.bool()
        if position_ids is None:
            if real_BN is None:
                position_ids = torch.arange(past, past + length, device=hidden.device)[None]
            else:
                position_ids = (real_BN.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
        config = self.config
        rotary = rotary_angles(position_ids, config.rotary_dim, config.rope_theta, config.rotary_frequencies)
        real_BT = None if real_BN is None else real_BN[:, -length:]
        attention = {
            "rotary": rotary,
            "mask": _causal_mask(real_BN, past, length) if real_BN is not None or (past and length > 1) else None,
            "causal": True,
            "cache": cache,
            "real_BT": real_BT,
        }
        gate = self.config.retrieval_gate if retrieval_gate is None else retrieval_gate
        retrieval = None
        if neighbor_ids is not None:
            retrieval = Retrieval(
                self.config, self.neighbor_encoder, self.embed_tokens, neighbor_ids, neighbor_mask,
                real_BN, past, (batch, length), cache,
            )  # fmt: skip
        for number, layer in enumerate(cast(Iterable[DecoderLayer], self.layers)):
            hidden = self._run(layer.attend, hidden, **attention)
            if layer.cross_attention is not None and layer.cross_norm is not None and retrieval is not None and gate:
                hidden = hidden + gate * retrieval(number, layer.cross_attention, layer.cross_norm(hidden))
            hidden = self._run(layer.transform, hidden)
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(hidden), past_key_values=cache if use_cache else None
        )

    def _run(self, function: Any, hidden: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        if self.gradient_checkpointing and self.training:
            return torch.utils.checkpoint.checkpoint(function, hidden, use_reentrant=False, **kwargs)
        return function(hidden, **kwargs)


class RetroForCausalLM(RetroPreTrainedModel, GenerationMixin):
    """RETRO (or GPT) with its output matrix."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: RetroConfig) -> None:
        super().__init__(config)
        self.model = RetroModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: RetroCache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        neighbor_ids: torch.Tensor | None = None,
        neighbor_mask: torch.Tensor | None = None,
        retrieval_gate: float | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [B, T, V], and the mean next-token loss where `labels` (-100: not counted) are given.

        For everything else see `RetroModel`.
        """
        outputs = self.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
            past_key_values=past_key_values, inputs_embeds=inputs_embeds, use_cache=use_cache,
            neighbor_ids=neighbor_ids, neighbor_mask=neighbor_mask, retrieval_gate=retrieval_gate,
        )  # fmt: skip
        hidden = outputs.last_hidden_state
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) and logits_to_keep else slice(None)
        logits = self.lm_head(hidden[:, keep] if isinstance(logits_to_keep, int) else hidden[:, logits_to_keep])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=outputs.past_key_values)

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """Generation keeps RETRO's state beside keys and values."""
        if generation_config.use_cache is not False and model_kwargs.get("past_key_values") is None:
            model_kwargs["past_key_values"] = RetroCache()


def _causal_mask(real_BN: torch.Tensor | None, past: int, length: int) -> torch.Tensor:
    """[B or 1, 1, T, past + T], True where a query may attend; padding queries attend to themselves to stay finite."""
    device = None if real_BN is None else real_BN.device
    queries = torch.arange(past, past + length, device=device)[:, None]
    keys = torch.arange(past + length, device=device)[None]
    mask = (keys <= queries)[None, None]
    return mask if real_BN is None else (mask & real_BN[:, None, None, :]) | (keys == queries)
