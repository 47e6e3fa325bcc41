"""The neighbor encoder: bidirectional layers over neighbor tokens, the first of which attends to the decoder's chunk.

Shape letters: B batch, L chunks, C chunk length, K neighbors, R retrieved length, D width, M sets of neighbors.
"""

from collections.abc import Iterable
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from retrotune.models.retro.configuration import RetroConfig
from retrotune.models.retro.layers import CrossAttention, Mlp, SelfAttention, make_norm


class EncoderLayer(nn.Module):
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

    def attend_itself(self, hidden_MRD: torch.Tensor, mask_MR: torch.Tensor | None) -> torch.Tensor:
        """The stream after self-attention; it does not depend on the chunk."""
        mask = None if mask_MR is None else (mask_MR | ~mask_MR.any(-1, keepdim=True))[:, None, None, :]
        normed = self.input_norm(hidden_MRD)
        return hidden_MRD + self.drop(self.self_attention(normed, mask=mask, real_BT=mask_MR))

    def attend_chunk(
        self, hidden_MKRD: torch.Tensor, chunk_MCD: torch.Tensor, chunk_mask_MC: torch.Tensor | None
    ) -> torch.Tensor:
        """The stream after attention to the chunk: its keys are the decoder's normed stream, not normed again."""
        assert self.cross_norm is not None
        assert self.cross_attention is not None
        neighbors, length = hidden_MKRD.shape[1:3]
        normed = self.cross_norm(hidden_MKRD)
        memory = self.cross_attention.memory(chunk_MCD, chunk_MCD.shape[1])
        attended = self.cross_attention(normed.flatten(1, 2), memory, chunk_mask_MC).unflatten(1, (neighbors, length))
        return (normed if self.normed_residual else hidden_MKRD) + self.drop(attended)

    def transform(self, hidden: torch.Tensor) -> torch.Tensor:
        """The stream after the MLP."""
        return hidden + self.drop(self.mlp(self.mlp_norm(hidden)))

    def drop(self, branch: torch.Tensor) -> torch.Tensor:
        """Dropout of a residual branch, in training."""
        return F.dropout(branch, self.dropout, self.training) if self.dropout else branch


class NeighborEncoder(nn.Module):
    """Neighbor tokens -> what the decoder attends to. NVIDIA's has no positions (a bag of words); no final norm."""

    def __init__(self, config: RetroConfig) -> None:
        super().__init__()
        self.attends_chunk = config.encoder_attends_chunk
        layers = range(config.encoder_num_layers)
        self.layers = nn.ModuleList(EncoderLayer(config, cross=self.attends_chunk and i == 0) for i in layers)

    @property
    def _first(self) -> EncoderLayer:
        return cast(EncoderLayer, self.layers[0])

    def begin(self, embedded_MRD: torch.Tensor, mask_MR: torch.Tensor | None) -> torch.Tensor:
        """What does not depend on the chunk: the first self-attention, or everything if chunks are not attended."""
        hidden = self._first.attend_itself(embedded_MRD, mask_MR)
        return hidden if self.attends_chunk else self.finish(hidden, mask_MR)

    def attend(
        self,
        begun_MKRD: torch.Tensor,
        mask_MKR: torch.Tensor | None,
        chunk_MCD: torch.Tensor,
        chunk_mask_MC: torch.Tensor | None,
    ) -> torch.Tensor:
        """Go on from `begin` with the chunk of each set; output [M, K, R, D]."""
        hidden = self._first.attend_chunk(begun_MKRD, chunk_MCD, chunk_mask_MC)
        sets, neighbors = hidden.shape[:2]
        flat = self.finish(hidden.flatten(0, 1), None if mask_MKR is None else mask_MKR.flatten(0, 1))
        return flat.unflatten(0, (sets, neighbors))

    def finish(self, hidden_MRD: torch.Tensor, mask_MR: torch.Tensor | None) -> torch.Tensor:
        """The rest of the first layer and all others."""
        hidden = self._first.transform(hidden_MRD)
        for layer in cast(Iterable[EncoderLayer], self.layers[1:]):
            hidden = layer.transform(layer.attend_itself(hidden, mask_MR))
        return hidden
