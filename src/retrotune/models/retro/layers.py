"""Building blocks of decoder and encoder.

Shape letters: B batch, T queries (new tokens), S keys, N heads, H head width, D width, L chunks, C chunk length,
K neighbors, R retrieved length.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from retrotune.models.retro.configuration import RetroConfig


class LayerNorm1P(nn.Module):
    """LayerNorm whose weight is stored as its difference from one, with a bias (NVIDIA's LayerNorm-1p)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """Normalize the last axis."""
        return F.layer_norm(hidden_BTD, self.weight.shape, self.weight + 1, self.bias, self.eps)


class RMSNorm(nn.Module):
    """Root-mean-square norm with a weight and no bias, as in Llama."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """Normalize the last axis, in float32 as Llama does."""
        scaled = hidden_BTD.float()
        scaled = scaled * torch.rsqrt(scaled.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * scaled.to(hidden_BTD.dtype)


def make_norm(config: RetroConfig) -> nn.Module:
    """The norm that a configuration names."""
    kind = LayerNorm1P if config.norm == "layernorm1p" else RMSNorm
    return kind(config.hidden_size, config.norm_eps)


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, config: RetroConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """down(silu(gate(x)) * up(x))."""
        return self.down_proj(F.silu(self.gate_proj(hidden_BTD)) * self.up_proj(hidden_BTD))


def rotary_angles(
    position_ids_BT: torch.Tensor, rotary_dim: int, theta: float, frequencies: list[float] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(cosines, sines) [B, 1, T, rotary_dim] of rotate-half rotary positions, in float32.

    `frequencies`: radians per token of each pair, powers of `theta` where none are given.
    """
    options: dict[str, Any] = {"device": position_ids_BT.device, "dtype": torch.float32}
    if frequencies is None:
        turns = 1 / theta ** (torch.arange(0, rotary_dim, 2, **options) / rotary_dim)
    else:
        turns = torch.tensor(frequencies, **options)
    angles = position_ids_BT[:, None, :, None].float() * turns
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(heads_BNTH: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotate the first part of each head; the rest passes through."""
    cosines, sines = rotary
    width = cosines.shape[-1]
    turned, rest = heads_BNTH[..., :width], heads_BNTH[..., width:]
    half = width // 2
    swapped = torch.cat([-turned[..., half:], turned[..., :half]], dim=-1)
    turned = (turned * cosines + swapped * sines).to(heads_BNTH.dtype)
    return torch.cat([turned, rest], dim=-1)


def shift_keys(key_BNTH: torch.Tensor, share_N: torch.Tensor, last_BN1H: torch.Tensor | None = None) -> torch.Tensor:
    """Each key mixed with the previous token's key, by a learned share per head (a sigmoid, one half at the start).

    Copying what follows a matching token then needs one layer; without it tiny models need far longer until copying
    forms. The first token has no previous one.
    """
    if last_BN1H is None:
        last_BN1H = torch.zeros_like(key_BNTH[:, :, :1])
    previous_BNTH = torch.cat([last_BN1H, key_BNTH[:, :, :-1]], dim=2)
    share = torch.sigmoid(share_N)[None, :, None, None]
    return key_BNTH + share * (previous_BNTH - key_BNTH)


class SelfAttention(nn.Module):
    """Self-attention of decoder (causal, rotary) and encoder (bidirectional, no positions)."""

    def __init__(self, config: RetroConfig, layer: int | None = None) -> None:
        super().__init__()
        self.layer = layer
        self.num_heads, self.num_kv_heads = config.num_attention_heads, config.num_key_value_heads or 1
        self.head_dim = config.head_dim or 1
        bias = config.attention_bias
        self.q_proj = nn.Linear(config.hidden_size, self.num_heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, self.num_kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, self.num_kv_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(self.num_heads * self.head_dim, config.hidden_size, bias=config.attention_output_bias)
        self.q_norm = RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else None
        self.key_shift = (
            nn.Parameter(torch.zeros(self.num_kv_heads)) if config.key_shift and layer is not None else None
        )

    def heads(self, projection: nn.Linear, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """A projection's output as [B, heads, T, H]."""
        return projection(hidden_BTD).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def forward(
        self,
        hidden_BTD: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor] | None = None,
        mask: torch.Tensor | None = None,
        causal: bool = False,
        cache: Any = None,
        real_BT: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attention output [B, T, D]; `mask` (True: may attend) broadcasts to [B, N, T, S]."""
        query = self.heads(self.q_proj, hidden_BTD)
        key, value = self.heads(self.k_proj, hidden_BTD), self.heads(self.v_proj, hidden_BTD)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        if self.key_shift is not None:
            key = self._shifted(key, cache, real_BT)
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
        if cache is not None:
            key, value = cache.update(key, value, self.layer)
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal and mask is None and query.shape[2] > 1,
            enable_gqa=self.num_kv_heads != self.num_heads,
        )  # fmt: skip
        return self.o_proj(out.transpose(1, 2).flatten(2))

    def _shifted(self, key_BNTH: torch.Tensor, cache: Any, real_BT: torch.Tensor | None) -> torch.Tensor:
        """Keys mixed with the previous token's; padding counts as no token, and a cache keeps the last key."""
        assert self.key_shift is not None
        if real_BT is not None:
            key_BNTH = key_BNTH * real_BT[:, None, :, None].to(key_BNTH.dtype)
        last_BN1H = None if cache is None else cache.last_keys.get(self.layer)
        if cache is not None:
            cache.last_keys[self.layer] = key_BNTH[:, :, -1:]
        return shift_keys(key_BNTH, self.key_shift, last_BN1H)


class CrossAttention(nn.Module):
    """Attention of one stream to another, without positions: decoder to neighbors, encoder to chunk."""

    def __init__(self, config: RetroConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.head_dim = config.head_dim or 1
        width = self.num_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=False)
        self.key_shift = nn.Parameter(torch.zeros(self.num_heads)) if config.key_shift else None

    def memory(self, hidden_BSD: torch.Tensor, text_length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(keys, values) [B, N, S, H] of what is attended to: texts of `text_length` tokens, one after the other."""
        key, value = (
            projection(hidden_BSD).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.k_proj, self.v_proj)
        )
        if self.key_shift is not None:
            texts = key.unflatten(2, (-1, text_length)).transpose(1, 2)
            shifted = shift_keys(texts.flatten(0, 1), self.key_shift).unflatten(0, texts.shape[:2])
            key = shifted.transpose(1, 2).flatten(2, 3)
        return key, value

    def forward(
        self, hidden_BTD: torch.Tensor, memory: tuple[torch.Tensor, torch.Tensor], mask_BS: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attention output [B, T, D]. Rows of `mask_BS` (True: may attend) without any True give zero."""
        query = self.q_proj(hidden_BTD).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        mask = None
        if mask_BS is not None:
            any_B = mask_BS.any(-1, keepdim=True)
            mask = (mask_BS | ~any_B)[:, None, None, :]
        out = self.o_proj(F.scaled_dot_product_attention(query, *memory, attn_mask=mask).transpose(1, 2).flatten(2))
        return out if mask_BS is None else out * any_B[:, :, None].to(out.dtype)
