"""Configuration of RETRO and, without cross-attention layers, of GPT."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

NORMS = ("layernorm1p", "rmsnorm")
RESIDUALS = ("pre_norm", "normed")
SHORT_CHUNKS = ("first", "last")


def default_cross_attention_layers(num_hidden_layers: int) -> list[int]:
    """NVIDIA's rule, 0-based: every third layer from the 9th, or from the 6th where there are at most 15 layers."""
    return list(range(5 if num_hidden_layers <= 15 else 8, num_hidden_layers, 3))


@strict
class RetroConfig(PreTrainedConfig):
    """RETRO as NVIDIA built it (arXiv 2304.06762, 2310.07713).

    Defaults are NVIDIA's but for `short_chunk` (Megatron: first) and `encoder_dropout` (0.1 in their pretraining).

    Args:
        cross_attention_layers: 0-based decoder layers with cross-attention; None: NVIDIA's rule; []: a GPT.
        chunk_length: tokens per chunk; retrieved_length: tokens per neighbor.
        encoder_residual: residual around the encoder's attention to the chunk: the stream before its LayerNorm
            (`pre_norm`, legacy Megatron and released checkpoints) or the LayerNorm's output (`normed`, megatron-core).
        encoder_attends_chunk: whether the neighbor encoder attends to the chunk (NVIDIA's behavior).
        short_chunk: which chunk is short when the length is no multiple of the chunk: `first` as in Megatron, or
            `last`, whose borders do not move as tokens are generated.
        retrieval_gate: factor of the cross-attention's output; 0 is the plain decoder.
        key_shift: mix each key with the previous token's key, one learned scalar per head; not in NVIDIA's models.
        rotary_share: share of each head's width that is rotated.
        rotary_frequencies: radians per token of each rotated pair, where they are not the powers of `rope_theta`
            (Llama 3's scaled ones, say).
        attention_bias, attention_output_bias: biases of self-attention's queries, keys and values, and of its output.
        qk_norm: each head of self-attention's queries and keys through an RMSNorm of its own, as in Qwen3. Like the
            biases it is found in decoder and encoder, never in cross-attention, which also shares no heads.
        final_norm: whether the decoder ends in a norm (megatron-core left it out from 0.7 on).
    """

    model_type = "retro"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 (transformers reads it from the class)

    vocab_size: int = 256_000
    hidden_size: int = 1024
    intermediate_size: int = 2688
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 4096
    rope_theta: float = 10_000.0
    rotary_share: float = 0.5
    rotary_frequencies: list[float] | None = None
    norm: str = "layernorm1p"
    norm_eps: float = 1e-5
    attention_bias: bool = False
    attention_output_bias: bool = False
    qk_norm: bool = False
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    chunk_length: int = 64
    retrieved_length: int = 128
    cross_attention_layers: list[int] | None = None
    encoder_num_layers: int = 2
    encoder_dropout: float = 0.0
    encoder_residual: str = "pre_norm"
    encoder_attends_chunk: bool = True
    short_chunk: str = "last"
    retrieval_gate: float = 1.0
    key_shift: bool = False
    final_norm: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in what follows from other values."""
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.head_dim = self.hidden_size // max(self.num_attention_heads, 1)
        if self.cross_attention_layers is None:
            self.cross_attention_layers = default_cross_attention_layers(self.num_hidden_layers)
            if not self.cross_attention_layers:
                raise ValueError(
                    f"num_hidden_layers={self.num_hidden_layers}: NVIDIA's rule puts no cross-attention layer there "
                    "(it needs 6 or more); list cross_attention_layers, or give [] for a GPT"
                )
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Check values against each other, before any weight is made."""
        choices = (("norm", NORMS), ("encoder_residual", RESIDUALS), ("short_chunk", SHORT_CHUNKS))
        for key, known in choices:
            if getattr(self, key) not in known:
                raise ValueError(f"{key}={getattr(self, key)!r}: known are {', '.join(known)}")
        for key in ("chunk_length", "retrieved_length", "encoder_num_layers", "num_hidden_layers"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}={getattr(self, key)}: must be at least 1")
        outside = [layer for layer in self.cross_attention_layers or () if not 0 <= layer < self.num_hidden_layers]
        if outside:
            raise ValueError(
                f"cross_attention_layers {outside}: there are layers 0 to {self.num_hidden_layers - 1} only"
            )
        if self.num_attention_heads % (self.num_key_value_heads or 1):
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} is no multiple of "
                f"num_key_value_heads={self.num_key_value_heads}"
            )
        if self.rotary_frequencies is not None and len(self.rotary_frequencies) != self.rotary_dim // 2:
            raise ValueError(
                f"{len(self.rotary_frequencies)} rotary_frequencies: head_dim={self.head_dim} and "
                f"rotary_share={self.rotary_share} need {self.rotary_dim // 2}"
            )

    @property
    def rotary_dim(self) -> int:
        """Rotated part of a head, an even number."""
        return int(self.rotary_share * (self.head_dim or 0)) // 2 * 2
