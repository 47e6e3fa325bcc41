"""RETRO and GPT, one decoder in transformers' conventions.

What is unusual, beside the literature's RETRO (arXiv 2112.04426): norms with stored weight minus one; rotary positions
on half of each head; the neighbor encoder reads the normed stream of the first cross-attention layer and has neither
positions nor a final norm; GPT is the same class with no cross-attention layer.

Which token attends to which neighbors is said in `retrieval.py`.

Shape letters: B batch, T new tokens, N all tokens, L chunks, K neighbors, R retrieved length, D width, V vocabulary.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
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
from retrotune.models.retro.neighbors import Retrieval


class DecoderLayer(GradientCheckpointingLayer):
    """Self-attention, in some layers cross-attention to neighbors, MLP; pre-norm residuals."""

    def __init__(self, config: RetroConfig, number: int) -> None:
        super().__init__()
        self.number = number
        self.input_norm = make_norm(config)
        self.self_attention = SelfAttention(config, number)
        cross = number in (config.cross_attention_layers or ())
        self.cross_norm = make_norm(config) if cross else None
        self.cross_attention = CrossAttention(config) if cross else None
        self.mlp_norm = make_norm(config)
        self.mlp = Mlp(config)

    def forward(
        self,
        hidden_BTD: torch.Tensor,
        attention: Mapping[str, Any] | None,
        retrieve: Callable[..., torch.Tensor] | None = None,
        only_attend: bool = False,
    ) -> Any:
        """The stream [B, T, D] after this layer; `retrieve` gives the cross-attention's output.

        In the layer whose stream the neighbor encoder reads, the encoder runs between two calls, so that checkpointed
        and sharded layers never nest: `only_attend` returns (the stream after self-attention, its norm), and a call
        with `attention` None goes on from there.
        """
        if attention is not None:
            hidden_BTD = hidden_BTD + self.self_attention(self.input_norm(hidden_BTD), **attention)
        if only_attend:
            assert self.cross_norm is not None
            return hidden_BTD, self.cross_norm(hidden_BTD)
        if retrieve is not None:
            assert self.cross_norm is not None
            hidden_BTD = hidden_BTD + retrieve(self.number, self.cross_attention, self.cross_norm(hidden_BTD))
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

        `neighbor_ids` [B, K, R] (one set for all chunks) or [B, L, K, R] (one per chunk; in generation the last one
        serves all later chunks); `neighbor_mask` of the same shape hides padding, which is attended without it,
        as NVIDIA does. `attention_mask` [B, past + T] hides padding tokens; positions are counted from it.
        Raises `ModelError`, before any compute, for neighbors or a mask of the wrong shape, for neighbors given to a
        GPT and for sequences longer than the window.
        """
        given = input_ids if inputs_embeds is None else inputs_embeds
        if given is None:
            raise ModelError("neither input_ids nor inputs_embeds were given: give one of them")
        batch, length = given.shape[:2]
        cache = past_key_values
        if not isinstance(cache, RetroCache):
            if cache is not None and cache.get_seq_length():
                raise ModelError(
                    f"past_key_values is a {type(cache).__name__} that holds {cache.get_seq_length()} tokens, without "
                    "the state of their chunks: give the RetroCache that this model returned"
                )
            cache = RetroCache() if use_cache else None
        past = cache.get_seq_length() if cache is not None else 0
        if past + length > self.config.max_position_embeddings:
            raise ModelError(
                f"{past + length} tokens do not fit the window of {self.config.max_position_embeddings} "
                "(max_position_embeddings): shorten the prompt"
            )
        if attention_mask is not None and attention_mask.shape != (batch, past + length):
            raise ModelError(
                f"attention_mask has shape {tuple(attention_mask.shape)}: expected {(batch, past + length)}, "
                "past and new tokens"
            )
        real_BN = _real_tokens(attention_mask)
        if position_ids is None:
            if real_BN is None:
                position_ids = torch.arange(past, past + length, device=given.device)[None]
            else:
                position_ids = (real_BN.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
        config = self.config
        rotary = rotary_angles(position_ids, config.rotary_dim, config.rope_theta, config.rotary_frequencies)
        real_BT = None if real_BN is None else real_BN[:, -length:]
        attention = {
            "rotary": rotary,
            "mask": _causal_mask(real_BN, past, length, given.device),
            "causal": True,
            "cache": cache,
            "real_BT": real_BT,
        }
        retrieval = None
        if neighbor_ids is not None:
            gate = self.config.retrieval_gate if retrieval_gate is None else retrieval_gate
            retrieval = Retrieval(
                self.config, self.neighbor_encoder, self.embed_tokens, neighbor_ids, neighbor_mask,
                real_BN, past, (batch, length), cache, gate,
            )  # fmt: skip
        hidden = given if inputs_embeds is not None else self.embed_tokens(given)
        hidden = self._run_layers(hidden, attention, retrieval if retrieval is not None and retrieval.gate else None)
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(hidden), past_key_values=cache if use_cache else None
        )

    def _run_layers(
        self, hidden: torch.Tensor, attention: Mapping[str, Any], retrieval: Retrieval | None
    ) -> torch.Tensor:
        memory = None
        for layer in cast(Iterable[DecoderLayer], self.layers):
            if retrieval is None or layer.cross_attention is None:
                hidden = layer(hidden, attention)
            elif memory is None:
                hidden, normed = layer(hidden, attention, only_attend=True)
                memory = retrieval.encode(normed)
                hidden = layer(hidden, None, partial(retrieval.attend, memory))
            else:
                hidden = layer(hidden, attention, partial(retrieval.attend, memory))
        return hidden


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

    def _prepare_generated_length(self, generation_config: Any, **given: Any) -> Any:
        """Raises `ModelError` if prompt and new tokens do not fit the window, before the first of them."""
        prepared = super()._prepare_generated_length(generation_config, **given)
        embedded = given["model_input_name"] == "inputs_embeds"
        prompt = given["inputs_tensor"].shape[1]
        new = prepared.max_length - given["input_ids_length"]
        if embedded and prepared.max_new_tokens is None and given["input_ids_length"] != prompt:
            new = prepared.max_length
        window = self.config.max_position_embeddings
        if prompt + max(new, 1) > window:
            raise ModelError(
                f"{prompt} tokens do not fit the window of {window} (max_position_embeddings) with {new} new ones: "
                "shorten the prompt, or lower max_new_tokens"
            )
        return prepared

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        inputs_embeds: torch.Tensor | None = None,
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Without a cache each step sees all chunks, generated ones too; as with it, the last set serves these."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        neighbor_ids = inputs.get("neighbor_ids")
        if neighbor_ids is not None and neighbor_ids.ndim == 4 and inputs.get("past_key_values") is None:
            tokens = input_ids if inputs.get("inputs_embeds") is None else inputs["inputs_embeds"]
            numbers_L = torch.arange(-(-tokens.shape[1] // self.config.chunk_length), device=neighbor_ids.device)
            sets = neighbor_ids.shape[1]
            numbers_L = numbers_L[:sets] if is_first_iteration else numbers_L.clamp(max=sets - 1)
            for key in ("neighbor_ids", "neighbor_mask"):
                inputs[key] = None if inputs.get(key) is None else inputs[key][:, numbers_L]
        return inputs

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """Generation keeps RETRO's state beside keys and values."""
        if generation_config.use_cache is not False and model_kwargs.get("past_key_values") is None:
            model_kwargs["past_key_values"] = RetroCache()


def _real_tokens(attention_mask: torch.Tensor | None) -> torch.Tensor | None:
    """[B, N], True for real tokens; None: all are. A compiled graph, which cannot look, takes any mask as it is."""
    if attention_mask is None or (not torch.compiler.is_compiling() and bool(attention_mask.all())):
        return None
    return attention_mask.bool()


def _causal_mask(real_BN: torch.Tensor | None, past: int, length: int, device: torch.device) -> torch.Tensor | None:
    """[B or 1, 1, T, past + T], True where a query may attend; padding queries attend to themselves to stay finite.

    None where causality alone says it: without padding, or with padding on the right only, which nothing real sees.
    """
    if real_BN is None and (not past or length == 1):
        return None
    if real_BN is not None and not past and not torch.compiler.is_compiling():
        left_padded = (real_BN[:, 1:] & ~real_BN[:, :-1]).any()
        if not left_padded:
            return None
    queries = torch.arange(past, past + length, device=device)[:, None]
    keys = torch.arange(past + length, device=device)[None]
    mask = (keys <= queries)[None, None]
    return mask if real_BN is None else (mask & real_BN[:, None, None, :]) | (keys == queries)
