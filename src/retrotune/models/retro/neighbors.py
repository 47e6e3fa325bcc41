"""Which token attends to which neighbors: one forward pass's retrieval, from neighbor ids to cross-attention outputs.

With the short chunk last, chunk c is tokens mc .. m(c+1)-1 (m: chunk length), its neighbors act first on its last token
and then on the next m-1, and a running chunk has none of its own. With the short chunk first (Megatron), the same from
the end: borders lie at N mod m, N mod m + m, ... A chunk that holds padding only has no neighbors, so that a row gives
the same numbers in any batch.

Shape letters: B batch, T new tokens, P past tokens, N all tokens, L chunks that the new tokens finish, C chunk length,
K neighbors, R retrieved length, S memory length (K*R), D width.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from retrotune.errors import ModelError
from retrotune.models.retro.cache import RetroCache
from retrotune.models.retro.configuration import RetroConfig
from retrotune.models.retro.encoder import NeighborEncoder
from retrotune.models.retro.layers import CrossAttention


@dataclass
class Memory:
    """Encoded neighbors: `hidden` [B, L, S, D] and `mask` [B, L, S] (None: all attended) of the finished chunks.

    `shared`: neighbors do not depend on the chunk, L is 1, and `active_BT` says which new tokens attend to them.
    """

    hidden: torch.Tensor | None
    mask: torch.Tensor | None = None
    shared: bool = False
    active_BT: torch.Tensor | None = None

    def to(self, device: torch.device) -> "Memory":
        """The same on a layer's device: a model may be spread over several."""
        moved = (None if part is None else part.to(device) for part in (self.hidden, self.mask, self.active_BT))
        hidden, mask, active_BT = moved
        return Memory(hidden, mask, self.shared, active_BT)


class Retrieval:
    """The neighbors of one forward pass: `encode` them once, then `attend` to them in each cross-attention layer.

    `gate` is the factor of the cross-attention's output. Raises `ModelError` on construction for neighbors of the wrong
    shape.
    """

    def __init__(
        self,
        config: RetroConfig,
        encoder: NeighborEncoder | None,
        embedding: nn.Module,
        neighbor_ids: torch.Tensor,
        neighbor_mask: torch.Tensor | None,
        real_BN: torch.Tensor | None,
        past: int,
        shape_BT: tuple[int, int],
        cache: RetroCache | None,
        gate: float,
    ) -> None:
        self.config, self.embedding, self.cache, self.gate = config, embedding, cache, gate
        self.ids, self.mask = neighbor_ids, None if neighbor_mask is None else neighbor_mask.bool()
        self.real_BN, self.past = real_BN, past
        self.batch, self.length = shape_BT
        self.per_chunk = neighbor_ids.ndim == 4
        if encoder is None:
            raise ModelError("neighbor_ids were given to a GPT (no cross_attention_layers): leave them out")
        self.encoder = encoder
        self._check(neighbor_mask)
        chunk = config.chunk_length
        if config.short_chunk == "first":
            self.before, self.finished = (self.length - 1) % chunk, -(-self.length // chunk)
        else:
            # new tokens before the next border's last token, and chunks that the new tokens finish
            self.before = min(self.length, chunk - past % chunk - 1)
            self.finished = (past % chunk + self.length) // chunk

    def encode(self, normed_BTD: torch.Tensor) -> Memory:
        """Encode the neighbors that the new tokens need; `normed_BTD` is the first cross-attention layer's stream."""
        whole = self.per_chunk or self.encoder.attends_chunk
        return self._encode_chunks(normed_BTD) if whole else self._encode_once()

    def attend(self, memory: Memory, layer: int, attention: CrossAttention, normed_BTD: torch.Tensor) -> torch.Tensor:
        """Cross-attention output [B, T, D] of a layer whose normed stream is given; zero where there is no memory."""
        attend = self._attend_shared if memory.shared else self._attend_chunks
        return self.gate * attend(layer, attention, normed_BTD, memory.to(normed_BTD.device))

    def _check(self, neighbor_mask: torch.Tensor | None) -> None:
        config, shape = self.config, tuple(self.ids.shape)
        if self.ids.ndim not in (3, 4) or shape[0] != self.batch:
            raise ModelError(
                f"neighbor_ids has shape {shape}: expected [{self.batch}, K, R] (one set for all chunks) or "
                f"[{self.batch}, chunks, K, R] (one set per chunk)"
            )
        if neighbor_mask is not None and tuple(neighbor_mask.shape) != shape:
            raise ModelError(
                f"neighbor_mask has shape {tuple(neighbor_mask.shape)}, neighbor_ids {shape}: must be equal"
            )
        if 0 in shape[-2:]:
            raise ModelError(f"neighbor_ids has shape {shape}: holds no token; leave it out for the plain decoder")
        if self.per_chunk and not self.past:
            whole, all_chunks = self.length // config.chunk_length, -(-self.length // config.chunk_length)
            fewest = all_chunks if config.short_chunk == "first" else whole
            # generation may be given the sets of chunks that are yet to be generated
            fits = shape[1] >= max(fewest, 1) if self.cache is not None else shape[1] in (fewest, all_chunks)
            if not fits:
                raise ModelError(
                    f"neighbor_ids holds {shape[1]} chunks, but {self.length} tokens are {all_chunks} chunks of "
                    f"{config.chunk_length} (short chunk {config.short_chunk})"
                )
        if self.cache is not None and config.short_chunk == "first":
            raise ModelError(
                "generation with a cache needs short_chunk='last': with 'first' all chunk borders move with every token"
            )

    def _encode_once(self) -> Memory:
        """One memory for all tokens: neighbors do not depend on the chunk in any way."""
        if self.cache is not None and self.cache.begun is not None:
            hidden = self.cache.begun
        else:
            flat_mask = None if self.mask is None else self.mask.flatten(0, 1)
            hidden = self.encoder.begin(self.embedding(self.ids.flatten(0, 1)), flat_mask)
            hidden = hidden.unflatten(0, (self.batch, -1)).flatten(1, 2)[:, None]
            if self.cache is not None:
                self.cache.begun = hidden
        mask = None if self.mask is None else self.mask.flatten(1)[:, None]
        return Memory(hidden, mask, shared=True, active_BT=self._active())

    def _active(self) -> torch.Tensor:
        """New tokens [B, T] that attend to a chunk's neighbors: after the first border, unless the chunk is padding."""
        chunk = self.config.chunk_length
        first = self.before if self.config.short_chunk == "first" else chunk - 1  # the first token that attends to any
        positions_T = torch.arange(self.past, self.past + self.length, device=self.ids.device)
        attended_T = torch.div(positions_T - first, chunk, rounding_mode="floor")  # negative: no chunk yet
        active_BT = (attended_T >= 0)[None].expand(self.batch, -1)
        alive_BL = self._alive()
        return active_BT if alive_BL is None else active_BT & alive_BL[:, attended_T.clamp(min=0)]

    def _encode_chunks(self, normed_BTD: torch.Tensor) -> Memory:
        """Encode the neighbors of the chunks that the new tokens finish."""
        chunk, cache, finished = self.config.chunk_length, self.cache, self.finished
        running = normed_BTD
        if cache is not None and self.encoder.attends_chunk:
            running = normed_BTD if cache.running is None else torch.cat([cache.running, normed_BTD], dim=1)
            cache.running = running[:, finished * chunk :]
        if finished == 0:
            return Memory(None)
        ids_BLKR, mask_BLKR = self._sets()
        sets, (neighbors, retrieved) = ids_BLKR.shape[1], ids_BLKR.shape[2:]
        if not self.per_chunk and cache is not None and cache.begun is not None:
            begun = cache.begun
        else:
            flat_mask = None if mask_BLKR is None else mask_BLKR.flatten(0, 2)
            begun = self.encoder.begin(self.embedding(ids_BLKR.flatten(0, 2)), flat_mask)
            begun = begun.unflatten(0, (self.batch, sets, neighbors))
            if not self.per_chunk and cache is not None:
                cache.begun = begun
        hidden = begun
        if self.encoder.attends_chunk:
            hidden = self.encoder.attend(begun, mask_BLKR, *self._chunks(running))
        mask_BLS = None if mask_BLKR is None else mask_BLKR.expand(-1, finished, -1, -1).flatten(2)
        alive_BL = self._alive()
        if alive_BL is not None:
            first = self.past // chunk
            alive_BLS = alive_BL[:, first : first + finished, None].expand(-1, -1, neighbors * retrieved)
            mask_BLS = alive_BLS if mask_BLS is None else mask_BLS & alive_BLS
        return Memory(hidden.flatten(2, 3), mask_BLS)

    def _sets(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(ids, mask) [B, L, K, R] of the finished chunks; L is 1 where all share one set, so it is begun only once."""
        if not self.per_chunk:
            return self.ids[:, None], None if self.mask is None else self.mask[:, None]
        first = self.past // self.config.chunk_length
        numbers_L = torch.arange(first, first + self.finished, device=self.ids.device)
        numbers_L = numbers_L.clamp(max=self.ids.shape[1] - 1)  # generated chunks use the last set again
        return self.ids[:, numbers_L], None if self.mask is None else self.mask[:, numbers_L]

    def _chunks(self, running_BTD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(streams [B, L, C, D], real tokens [B, L, C]) of the finished chunks; a short first one is zero-padded."""
        chunk, real_BN = self.config.chunk_length, self.real_BN
        if self.config.short_chunk == "first":
            short = running_BTD.shape[1] % chunk
            if short:
                gap = running_BTD.new_zeros(self.batch, chunk - short, running_BTD.shape[2])
                running_BTD = torch.cat([running_BTD[:, :short], gap, running_BTD[:, short:]], dim=1)
                if real_BN is not None:
                    gap_mask = real_BN.new_ones(self.batch, chunk - short)  # attended, as in Megatron
                    real_BN = torch.cat([real_BN[:, :short], gap_mask, real_BN[:, short:]], dim=1)
        elif real_BN is not None:
            start = self.past // chunk * chunk
            real_BN = real_BN[:, start : start + self.finished * chunk]
        streams = running_BTD[:, : self.finished * chunk].unflatten(1, (self.finished, chunk))
        return streams, None if real_BN is None else real_BN.unflatten(1, (self.finished, chunk))

    def _alive(self) -> torch.Tensor | None:
        """Chunks [B, all of the sequence] that hold a real token; None: all do."""
        if self.real_BN is None:
            return None
        gap = -self.real_BN.shape[1] % self.config.chunk_length
        whole = F.pad(self.real_BN, (gap, 0) if self.config.short_chunk == "first" else (0, gap))
        return whole.unflatten(1, (-1, self.config.chunk_length)).any(-1)

    def _attend_shared(
        self, layer: int, attention: CrossAttention, normed_BTD: torch.Tensor, memory: Memory
    ) -> torch.Tensor:
        cache = self.cache
        if cache is not None and layer in cache.memory:
            key, value, _ = cache.memory[layer]
        else:
            assert memory.hidden is not None
            key, value = attention.memory(memory.hidden[:, 0], self.ids.shape[-1])
            if cache is not None:
                cache.memory[layer] = (key, value, key.new_ones(self.batch, key.shape[2], dtype=torch.bool))
        out = attention(normed_BTD, (key, value), None if memory.mask is None else memory.mask[:, 0])
        assert memory.active_BT is not None
        return out * memory.active_BT[:, :, None].to(out.dtype)

    def _attend_chunks(
        self, layer: int, attention: CrossAttention, normed_BTD: torch.Tensor, memory: Memory
    ) -> torch.Tensor:
        cache, finished, parts = self.cache, self.finished, []
        if self.before:
            head_BTD = normed_BTD[:, : self.before]
            kept = cache.memory.get(layer) if cache is not None else None
            parts.append(torch.zeros_like(head_BTD) if kept is None else attention(head_BTD, kept[:2], kept[2]))
        if finished:
            assert memory.hidden is not None
            key, value = attention.memory(memory.hidden.flatten(0, 1), self.ids.shape[-1])
            queries = normed_BTD[:, self.before :]
            rows = self.config.chunk_length if finished > 1 else queries.shape[1]
            padded = F.pad(queries, (0, 0, 0, finished * rows - queries.shape[1])).unflatten(1, (finished, rows))
            mask = None if memory.mask is None else memory.mask.flatten(0, 1)
            out = attention(padded.flatten(0, 1), (key, value), mask)
            parts.append(out.unflatten(0, (self.batch, finished)).flatten(1, 2)[:, : queries.shape[1]])
            if cache is not None:
                key, value = (state.unflatten(0, (self.batch, finished))[:, -1] for state in (key, value))
                last = key.new_ones(self.batch, key.shape[2], dtype=torch.bool)
                cache.memory[layer] = (key, value, last if memory.mask is None else memory.mask[:, -1])
        return torch.cat(parts, dim=1)
