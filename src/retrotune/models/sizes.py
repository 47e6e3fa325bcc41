"""The paper's sizes (arXiv 2407.04528; layers and widths as in arXiv 2310.07713) and custom ones."""

from typing import Any

from huggingface_hub.errors import StrictDataclassError

from retrotune.errors import ModelError
from retrotune.models.retro.configuration import RetroConfig, default_cross_attention_layers
from retrotune.study.config import SizeEntry, nearest

VOCAB_SIZE = 256_000
"""Pieces of NVIDIA's SentencePiece tokenizer."""

SIZES: dict[str, tuple[int, int, int]] = {
    "xs": (24, 1024, 16),
    "s": (24, 2048, 16),
    "m": (32, 4096, 32),
    "l": (40, 6144, 48),
    "xxl": (48, 8192, 64),
}
"""(layers, width, heads). GPT | RETRO have 823.2M | 877.5M, 2.2536B | 2.4715B, 8.5234B | 9.5291B, 21.266B | 23.984B and
42.825B | 48.462B parameters."""


def ffn_size(hidden_size: int) -> int:
    """Megatron's SwiGLU width: two thirds of four times the width, rounded down to a multiple of 64."""
    return int(4 * hidden_size * 2 / 3 / 64) * 64


def model_config(family: str, size: str, **changes: Any) -> RetroConfig:
    """The configuration of one of the paper's sizes; `changes` override single values (the vocabulary, say).

    Raises `ModelError` for an unknown family or size.
    """
    if size not in SIZES:
        raise ModelError(f"unknown size {size!r}; {nearest(size, list(SIZES))}")
    layers, hidden, heads = SIZES[size]
    values: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": ffn_size(hidden),
        "cross_attention_layers": _cross_attention_layers(family, None, layers),
    }
    return RetroConfig(**(values | changes))


def custom_config(family: str, entry: SizeEntry, **changes: Any) -> RetroConfig:
    """The configuration of an entry of `sizes`; `changes` give the vocabulary and special tokens."""
    values: dict[str, Any] = {
        "num_hidden_layers": entry.num_layers,
        "hidden_size": entry.hidden_size,
        "num_attention_heads": entry.num_heads,
        "intermediate_size": entry.ffn_size,
        "max_position_embeddings": entry.max_length,
        "chunk_length": entry.chunk_length,
        "retrieved_length": entry.retrieved_length,
        "cross_attention_layers": _cross_attention_layers(family, entry.cross_attention_layers, entry.num_layers),
        "encoder_num_layers": entry.encoder_layers,
        "encoder_attends_chunk": entry.encoder_attends_chunk,
        "key_shift": entry.key_shift,
        "tie_word_embeddings": entry.tie_embeddings,
        "rotary_share": entry.rotary_share,
    }
    try:
        return RetroConfig(**(values | changes))
    except (ValueError, StrictDataclassError) as error:
        raise ModelError(f"sizes: {error}") from error


def departures(config: RetroConfig) -> list[str]:
    """What a model's architecture has that NVIDIA's has not, stated beside its results."""
    found = []
    if config.key_shift:
        found.append("each key is mixed with the previous token's key (key shift)")
    if config.tie_word_embeddings:
        found.append("input and output embeddings are one matrix")
    if config.norm != "layernorm1p":
        found.append(f"norms are {config.norm} (layernorm1p)")
    if not config.final_norm:
        found.append("the decoder does not end in a norm")
    if config.cross_attention_layers:
        if config.encoder_num_layers != 2:
            found.append(f"layers of the neighbor encoder: {config.encoder_num_layers} (2)")
        if not config.encoder_attends_chunk:
            found.append("the neighbor encoder does not attend to the chunk")
        if list(config.cross_attention_layers) != default_cross_attention_layers(config.num_hidden_layers):
            found.append(f"cross-attention in layers {list(config.cross_attention_layers)} (0-based)")
        if config.chunk_length != 64 or config.retrieved_length != 128:
            found.append(f"chunks of {config.chunk_length} tokens, neighbors of {config.retrieved_length} (64 and 128)")
    if config.rotary_share != 0.5:
        found.append(f"{config.rotary_share:.0%} of each head is rotated (50 %)")
    if config.rotary_frequencies is not None:
        found.append("rotary frequencies are scaled for long texts")
    elif config.rope_theta != 10_000:
        found.append(f"rotary base {config.rope_theta:g} (10000)")
    if config.num_key_value_heads != config.num_attention_heads:
        found.append(f"{config.num_attention_heads} heads share {config.num_key_value_heads} of keys and values")
    if config.qk_norm:
        found.append("queries and keys are normed")
    if config.attention_bias or config.attention_output_bias:
        found.append("self-attention has biases")
    return found


def _cross_attention_layers(family: str, listed: Any, layers: int) -> list[int]:
    if family not in ("gpt", "retro"):
        raise ModelError(f"unknown family {family!r}; known: gpt, retro")
    if family == "gpt":
        return []
    chosen = list(listed) if listed is not None else default_cross_attention_layers(layers)
    if not chosen:
        raise ModelError(
            f"{layers} layers: NVIDIA's rule puts no cross-attention layer there (it needs 6 or more): "
            "list cross_attention_layers in the size"
        )
    return chosen


def build_config(size: str | SizeEntry, family: str, **changes: Any) -> RetroConfig:
    """The configuration of a size of the paper, by name, or of an entry of `sizes`."""
    return (
        custom_config(family, size, **changes) if isinstance(size, SizeEntry) else model_config(family, size, **changes)
    )
