"""The neighbor encoder: bidirectional layers over neighbor tokens, the first of which attends to the decoder's chunk.

Shape letters: B batch, L chunks, C chunk length, K neighbors, R retrieved length, D width, M sets of neighbors.
"""

from collections.abc import Iterable
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from retrotune.models.retro.configuration import RetroConfig
from retrotune.models.retro.layers import CrossAttention, Mlp, SelfAttention, make_norm


class EncoderLayer(GradientCheckpointingLayer):
    """Bidirectional block; the first one of an encoder that attends to chunks has cross-attention in the middle."""

    def __init__(self, config: RetroConfig, cross: bool) -> None:
        super().__init__()
        self.input_norm = make_norm(config)
        self.self_attention = SelfAttention(config)
        self.cross_norm = make_norm(config) if cross else None
        self.cross_attention = CrossAttention(config) if cross else None
        self.mlp_norm = make_norm(config)
        self.mlp = Mlp(config)
        self.normed_residual = config.encoder_residual == "normed"
        self.dropout = config.encoder_dropout

    def forward(
        self,
        hidden: torch.Tensor,
        mask_MR: torch.Tensor | None = None,
        chunks_BLCD: torch.Tensor | None = None,
        chunk_mask_BLC: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The stream [M, R, D] after this layer.

        With cross-attention a layer is called twice, so that what does not depend on the chunk is computed once for all
        chunks that share their neighbors: without `chunks_BLCD` it returns the stream after self-attention; then, with
        that stream as `hidden` [B, L or 1, K, R, D] and with chunks, it goes on and returns [B, L, K, R, D].
        """
        if chunks_BLCD is None:
            hidden = self._attend_itself(hidden, mask_MR)
            if self.cross_attention is not None:
                return hidden
        else:
            hidden = self._attend_chunks(hidden, chunks_BLCD, chunk_mask_BLC)
        return hidden + self._drop(self.mlp(self.mlp_norm(hidden)))

    def _attend_itself(self, hidden_MRD: torch.Tensor, mask_MR: torch.Tensor | None) -> torch.Tensor:
        mask = None if mask_MR is None else (mask_MR | ~mask_MR.any(-1, keepdim=True))[:, None, None, :]
        normed = self.input_norm(hidden_MRD)
        return hidden_MRD + self._drop(self.self_attention(normed, mask=mask, real_BT=mask_MR))

    def _attend_chunks(
        self, hidden_BLKRD: torch.Tensor, chunks_BLCD: torch.Tensor, chunk_mask_BLC: torch.Tensor | None
    ) -> torch.Tensor:
        """Attention to the chunks: keys are the decoder's normed stream, not normed again."""
        assert self.cross_norm is not None
        assert self.cross_attention is not None
        batch, chunks, length = chunks_BLCD.shape[:3]
        sets, neighbors, retrieved = hidden_BLKRD.shape[1:4]
        normed = self.cross_norm(hidden_BLKRD)
        query = self.cross_attention.query(normed.flatten(0, 1).flatten(1, 2))  # once per set, not once per chunk
        if sets != chunks:
            query = query.unflatten(0, (batch, sets)).expand(-1, chunks, -1, -1, -1).flatten(0, 1)
        memory = self.cross_attention.memory(chunks_BLCD.flatten(0, 1), length)
        mask = None if chunk_mask_BLC is None else chunk_mask_BLC.flatten(0, 1)
        attended = self.cross_attention.attend(query, memory, mask)
        attended = attended.unflatten(0, (batch, chunks)).unflatten(2, (neighbors, retrieved))
        return (normed if self.normed_residual else hidden_BLKRD) + self._drop(attended)

    def _drop(self, branch: torch.Tensor) -> torch.Tensor:
        """Dropout of a residual branch, in training."""
        return F.dropout(branch, self.dropout, self.training) if self.dropout else branch


class NeighborEncoder(nn.Module):
    """Neighbor tokens -> what the decoder attends to. NVIDIA's has no positions (a bag of words); no final norm."""

    def __init__(self, config: RetroConfig) -> None:
        super().__init__()
        self.attends_chunk = config.encoder_attends_chunk
        layers = range(config.encoder_num_layers)
        self.layers = nn.ModuleList(EncoderLayer(config, cross=self.attends_chunk and i == 0) for i in layers)

    def begin(self, embedded_MRD: torch.Tensor, mask_MR: torch.Tensor | None) -> torch.Tensor:
        """What does not depend on the chunk: the first self-attention, or everything if chunks are not attended."""
        hidden = self.layers[0](embedded_MRD, mask_MR)
        return hidden if self.attends_chunk else self._rest(hidden, mask_MR)

    def attend(
        self,
        begun_BLKRD: torch.Tensor,
        mask_BLKR: torch.Tensor | None,
        chunks_BLCD: torch.Tensor,
        chunk_mask_BLC: torch.Tensor | None,
    ) -> torch.Tensor:
        """Go on from `begin` with each chunk; one begun set (L = 1) serves all chunks. Output [B, L, K, R, D]."""
        hidden = self.layers[0](begun_BLKRD, None, chunks_BLCD, chunk_mask_BLC)
        shape = hidden.shape[:3]
        mask = None if mask_BLKR is None else mask_BLKR.expand(*shape, -1).flatten(0, 2)
        return self._rest(hidden.flatten(0, 2), mask).unflatten(0, shape)

    def _rest(self, hidden_MRD: torch.Tensor, mask_MR: torch.Tensor | None) -> torch.Tensor:
        for layer in cast(Iterable[EncoderLayer], self.layers[1:]):
            hidden_MRD = layer(hidden_MRD, mask_MR)
        return hidden_MRD
