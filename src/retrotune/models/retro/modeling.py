"""RETRO and GPT, one decoder in transformers' conventions.

What is unusual, beside the literature's RETRO (arXiv 2112.04426): norms with stored weight minus one; rotary positions
on half of each head; the neighbor encoder reads the normed stream of the first cross-attention layer and has neither
positions nor a final norm; GPT is the same class with no cross-attention layer.

Which token attends to which neighbors (m: chunk length): with the short chunk last, chunk c is tokens mc .. m(c+1)-1,
its neighbors act first on its last token and then on the next m-1, and a running chunk has none of its own. With the
short chunk first (Megatron), the same from the end: borders lie at N mod m, N mod m + m, ... A chunk that holds padding
only has no neighbors, so that a row gives the same numbers in any batch.

Shape letters: B batch, T new tokens, P past tokens, N all tokens, L chunks, C chunk length, K neighbors, R retrieved
length, S memory length (K*R), D width, V vocabulary, G groups of queries that share a memory.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F
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


@dataclass
class Memory:
    """Encoded neighbors: `hidden` [B, G, S, D] and `mask` [B, G, S] (None: all attended) per group of queries.

    `shared`: one memory [B, 1, S, D] for all tokens, and `active_BT` says which of them attend to it.
    """

    hidden: torch.Tensor | None
    mask: torch.Tensor | None
    text_length: int
    shared: bool = False
    active_BT: torch.Tensor | None = None


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
        self._check(batch, past, length, neighbor_ids, neighbor_mask, cache)
        real_BN = None
        if attention_mask is not None and not bool(attention_mask.all()):
            real_BN = attention_mask.bool()
        if position_ids is None:
            if real_BN is None:
                position_ids = torch.arange(past, past + length, device=hidden.device)[None]
            else:
                position_ids = (real_BN.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
        rotary = rotary_angles(position_ids, self.config.rotary_dim, self.config.rope_theta)
        real_BT = None if real_BN is None else real_BN[:, -length:]
        attention = {
            "rotary": rotary,
            "mask": _causal_mask(real_BN, past, length) if real_BN is not None or (past and length > 1) else None,
            "causal": True,
            "cache": cache,
            "real_BT": real_BT,
        }
        gate = self.config.retrieval_gate if retrieval_gate is None else retrieval_gate
        memory: Memory | None = None
        for number, layer in enumerate(cast(Iterable[DecoderLayer], self.layers)):
            hidden = self._run(layer.attend, hidden, **attention)
            if layer.cross_attention is not None and layer.cross_norm is not None and neighbor_ids is not None and gate:
                normed = layer.cross_norm(hidden)
                if memory is None:
                    memory = self._remember(normed, neighbor_ids, neighbor_mask, real_BN, past, cache)
                hidden = hidden + gate * self._retrieve(number, layer.cross_attention, normed, memory, past, cache)
            hidden = self._run(layer.transform, hidden)
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(hidden), past_key_values=cache if use_cache else None
        )

    def _run(self, function: Any, hidden: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        if self.gradient_checkpointing and self.training:
            return torch.utils.checkpoint.checkpoint(function, hidden, use_reentrant=False, **kwargs)
        return function(hidden, **kwargs)

    def _check(
        self, batch: int, past: int, length: int, neighbor_ids: Any, neighbor_mask: Any, cache: RetroCache | None
    ) -> None:
        config = self.config
        if past + length > config.max_position_embeddings:
            raise ModelError(
                f"{past + length} tokens do not fit the window of {config.max_position_embeddings} "
                "(max_position_embeddings): shorten the prompt"
            )
        if neighbor_ids is None:
            return
        if self.neighbor_encoder is None:
            raise ModelError("neighbor_ids were given to a GPT (no cross_attention_layers): leave them out")
        shape = tuple(neighbor_ids.shape)
        if neighbor_ids.ndim not in (3, 4) or shape[0] != batch:
            raise ModelError(
                f"neighbor_ids has shape {shape}: expected [{batch}, K, R] (one set for all chunks) or "
                f"[{batch}, chunks, K, R] (one set per chunk)"
            )
        if neighbor_mask is not None and tuple(neighbor_mask.shape) != shape:
            raise ModelError(
                f"neighbor_mask has shape {tuple(neighbor_mask.shape)}, neighbor_ids {shape}: must be equal"
            )
        if neighbor_ids.ndim == 4 and cache is None:
            chunks = [length // config.chunk_length, -(-length // config.chunk_length)]
            allowed = chunks[1:] if config.short_chunk == "first" else chunks
            if shape[1] not in allowed:
                raise ModelError(
                    f"neighbor_ids holds {shape[1]} chunks, but {length} tokens are {allowed[-1]} chunks of "
                    f"{config.chunk_length} (short chunk {config.short_chunk})"
                )
        if cache is not None and config.short_chunk == "first":
            raise ModelError(
                "generation with a cache needs short_chunk='last': with 'first' all chunk borders move with every token"
            )

    def _borders(self, past: int, length: int) -> tuple[int, int]:
        """(new tokens before the first border's last token, chunks that are finished by the new tokens)."""
        chunk = self.config.chunk_length
        if self.config.short_chunk == "first":
            return (length - 1) % chunk, -(-length // chunk)
        return min(length, chunk - past % chunk - 1), (past % chunk + length) // chunk

    def _remember(
        self,
        normed_BTD: torch.Tensor,
        neighbor_ids: torch.Tensor,
        neighbor_mask: torch.Tensor | None,
        real_BN: torch.Tensor | None,
        past: int,
        cache: RetroCache | None,
    ) -> Memory:
        """Encode the neighbors of the chunks that the new tokens finish."""
        assert self.neighbor_encoder is not None
        chunk = self.config.chunk_length
        batch, length = normed_BTD.shape[:2]
        _, finished = self._borders(past, length)
        per_chunk = neighbor_ids.ndim == 4
        mask = None if neighbor_mask is None else neighbor_mask.bool()
        if not per_chunk and not self.neighbor_encoder.attends_chunk:
            return self._remember_shared(normed_BTD, neighbor_ids, mask, real_BN, past, cache)
        if cache is not None and self.neighbor_encoder.attends_chunk:
            running = normed_BTD if cache.running is None else torch.cat([cache.running, normed_BTD], dim=1)
            cache.running = running[:, finished * chunk :]
        else:
            running = normed_BTD
        if finished == 0:
            return Memory(None, None, neighbor_ids.shape[-1])
        if per_chunk:
            first = past // chunk
            numbers = torch.arange(first, first + finished, device=neighbor_ids.device)
            numbers = numbers.clamp(max=neighbor_ids.shape[1] - 1)
            neighbor_ids = neighbor_ids[:, numbers]
            mask = None if mask is None else mask[:, numbers]
        # [B, L', K, R] with L' = 1 where all chunks share one set: what does not depend on the chunk is computed once
        ids_BLKR = neighbor_ids if per_chunk else neighbor_ids[:, None]
        mask_BLKR = mask if per_chunk or mask is None else mask[:, None]
        sets, (neighbors, retrieved) = ids_BLKR.shape[1], ids_BLKR.shape[2:]
        if not per_chunk and cache is not None and cache.begun is not None:
            begun = cache.begun
        else:
            flat_mask = None if mask_BLKR is None else mask_BLKR.flatten(0, 2)
            begun = self.neighbor_encoder.begin(self.embed_tokens(ids_BLKR.flatten(0, 2)), flat_mask)
            begun = begun.unflatten(0, (batch, sets, neighbors))
            if not per_chunk and cache is not None:
                cache.begun = begun
        if self.neighbor_encoder.attends_chunk:
            begun = begun.expand(-1, finished, -1, -1, -1).flatten(0, 1)
            expanded = None if mask_BLKR is None else mask_BLKR.expand(-1, finished, -1, -1).flatten(0, 1)
            chunks_BLCD, chunk_mask = self._chunks(running, real_BN, past, finished)
            hidden = self.neighbor_encoder.attend(
                begun, expanded, chunks_BLCD.flatten(0, 1), None if chunk_mask is None else chunk_mask.flatten(0, 1)
            ).unflatten(0, (batch, finished))
        else:
            hidden = begun
        memory_mask = None if mask_BLKR is None else mask_BLKR.expand(-1, finished, -1, -1).flatten(2)
        alive = self._alive(real_BN, past, length, finished)
        if alive is not None:
            size = (batch, finished, neighbors * retrieved)
            memory_mask = alive[:, :, None].expand(size) if memory_mask is None else memory_mask & alive[:, :, None]
        return Memory(hidden.flatten(2, 3), memory_mask, retrieved)

    def _remember_shared(
        self,
        normed_BTD: torch.Tensor,
        neighbor_ids: torch.Tensor,
        mask: torch.Tensor | None,
        real_BN: torch.Tensor | None,
        past: int,
        cache: RetroCache | None,
    ) -> Memory:
        """One memory for all tokens: neighbors do not depend on the chunk in any way."""
        assert self.neighbor_encoder is not None
        batch, length = normed_BTD.shape[:2]
        before, _ = self._borders(past, length)
        chunk = self.config.chunk_length
        if cache is not None and cache.begun is not None:
            hidden = cache.begun
        else:
            embedded = self.embed_tokens(neighbor_ids.flatten(0, 1))
            hidden = self.neighbor_encoder.begin(embedded, None if mask is None else mask.flatten(0, 1))
            hidden = hidden.unflatten(0, (batch, -1)).flatten(1, 2)[:, None]
            if cache is not None:
                cache.begun = hidden
        ends = torch.arange(past, past + length, device=normed_BTD.device)
        if self.config.short_chunk == "first":
            active = (ends >= before)[None].expand(batch, -1)
        else:
            last = (ends + 1) // chunk - 1  # the chunk that a token attends to; -1: none yet
            active = (last >= 0)[None].expand(batch, -1)
            if real_BN is not None:
                whole = F.pad(real_BN, (0, -real_BN.shape[1] % chunk)).unflatten(1, (-1, chunk)).any(-1)
                active = active & whole[:, last.clamp(min=0)]
        flat = None if mask is None else mask.flatten(1)[:, None]
        return Memory(hidden, flat, neighbor_ids.shape[-1], shared=True, active_BT=active)

    def _chunks(
        self, running_BTD: torch.Tensor, real_BN: torch.Tensor | None, past: int, finished: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(streams [B, L, C, D], real tokens [B, L, C]) of the finished chunks; a short first chunk is zero-padded."""
        chunk = self.config.chunk_length
        mask = None
        if self.config.short_chunk == "first":
            short = running_BTD.shape[1] % chunk
            if short:
                gap = running_BTD.new_zeros(running_BTD.shape[0], chunk - short, running_BTD.shape[2])
                running_BTD = torch.cat([running_BTD[:, :short], gap, running_BTD[:, short:]], dim=1)
            if real_BN is not None:
                mask = real_BN
                if short:
                    mask = torch.cat(
                        [real_BN[:, :short], F.pad(real_BN[:, :0], (0, chunk - short)), real_BN[:, short:]], 1
                    )
        elif real_BN is not None:
            start = past // chunk * chunk
            mask = real_BN[:, start : start + finished * chunk]
        streams = running_BTD[:, : finished * chunk].unflatten(1, (finished, chunk))
        return streams, None if mask is None else mask.unflatten(1, (finished, chunk))

    def _alive(self, real_BN: torch.Tensor | None, past: int, length: int, finished: int) -> torch.Tensor | None:
        """Finished chunks [B, L] that hold a real token."""
        if real_BN is None:
            return None
        chunk = self.config.chunk_length
        if self.config.short_chunk == "first":
            padded = F.pad(real_BN, (-length % chunk, 0))
            return padded.unflatten(1, (finished, chunk)).any(-1)
        start = past // chunk * chunk
        return real_BN[:, start : start + finished * chunk].unflatten(1, (finished, chunk)).any(-1)

    def _retrieve(
        self,
        number: int,
        attention: CrossAttention,
        normed_BTD: torch.Tensor,
        memory: Memory,
        past: int,
        cache: RetroCache | None,
    ) -> torch.Tensor:
        """Cross-attention output [B, T, D] of the new tokens; zero where there is no memory."""
        batch, length = normed_BTD.shape[:2]
        if memory.shared:
            if cache is not None and number in cache.memory:
                key, value, _ = cache.memory[number]
            else:
                assert memory.hidden is not None
                key, value = attention.memory(memory.hidden[:, 0], memory.text_length)
                if cache is not None:
                    cache.memory[number] = (key, value, torch.ones((), dtype=torch.bool).expand(batch, key.shape[2]))
            out = attention(normed_BTD, (key, value), None if memory.mask is None else memory.mask[:, 0])
            assert memory.active_BT is not None
            return out * memory.active_BT[:, :, None].to(out.dtype)
        before, finished = self._borders(past, length)
        parts = []
        if before:
            kept = cache.memory.get(number) if cache is not None else None
            head = normed_BTD[:, :before]
            parts.append(torch.zeros_like(head) if kept is None else attention(head, kept[:2], kept[2]))
        if finished:
            assert memory.hidden is not None
            key, value = attention.memory(memory.hidden.flatten(0, 1), memory.text_length)
            mask = memory.mask
            queries = normed_BTD[:, before:]
            chunk = self.config.chunk_length if finished > 1 else queries.shape[1]
            padded = F.pad(queries, (0, 0, 0, finished * chunk - queries.shape[1])).unflatten(1, (finished, chunk))
            out = attention(padded.flatten(0, 1), (key, value), None if mask is None else mask.flatten(0, 1))
            parts.append(out.unflatten(0, (batch, finished)).flatten(1, 2)[:, : queries.shape[1]])
            if cache is not None:
                key, value = (state.unflatten(0, (batch, finished))[:, -1] for state in (key, value))
                last = key.new_ones(batch, key.shape[2], dtype=torch.bool) if mask is None else mask[:, -1]
                cache.memory[number] = (key, value, last)
        return torch.cat(parts, dim=1)


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
