"""A Megatron checkpoint, legacy or megatron-core, as a configuration and tensors of ours."""

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from retrotune.errors import ModelError
from retrotune.models.convert.names import (
    Geometry,
    entry_of,
    foreign_family,
    has_retriever,
    rows_of,
    unstacked,
)
from retrotune.models.convert.source import LazyTensor, Source
from retrotune.models.convert.stored import Ranges, Stored
from retrotune.models.retro.configuration import RetroConfig, default_cross_attention_layers

ABSENT: Mapping[str, tuple[Any, ...]] = {
    "add_bias_linear": (True,),
    "apply_residual_connection_post_layernorm": (True,),
    "swiglu": (False,),
    "gated_linear_unit": (False,),
    "squared_relu": (True,),
    "rotary_interleaved": (True,),
    "use_rope_scaling": (True,),
    "qk_layernorm": (True,),
    "multi_latent_attention": (True,),
}
"""Arguments of Megatron, each with the values that ask for what our model does not have."""

ABSENT_UNLESS_ONE = (
    "num_experts", "num_moe_experts", "rotary_seq_len_interpolation_factor", "seq_len_interpolation_factor",
)  # fmt: skip
"""The same, for what any number but one asks for."""


def megatron_source(
    place: Path,
    layout: str,
    arguments: Mapping[str, Any],
    tensors: Mapping[str, Stored],
    chunk_length: int | None = None,
    vocab_size: int | None = None,
    pieces: int | None = None,
) -> Source:
    """The source that a Megatron checkpoint gives; nothing is read.

    `arguments` are Megatron's, or the fields of megatron-core's configuration. `chunk_length` and `vocab_size` are
    given where they do not hold them; `pieces` is the number of pieces of the tokenizer, if there is one.
    Raises `ModelError` for another model family and for what our model does not have.
    """
    tensors = dict(unstacked(tensors))
    if foreign := foreign_family(tensors):
        raise ModelError(f"{place}: a {foreign[0]} checkpoint ({foreign[1]}); GPT and RETRO are converted")
    _check_arguments(place, arguments, tensors)
    known = _Arguments(place, arguments)
    config = _configuration(place, known, tensors, chunk_length, vocab_size or pieces)
    geometry = Geometry(
        num_heads=config.num_attention_heads,
        num_groups=config.num_key_value_heads or 1,
        head_dim=config.head_dim or 1,
        ffn_size=config.intermediate_size,
        vocab_size=config.vocab_size,
    )
    shift = _gamma_shift(config, known)
    ours: dict[str, LazyTensor] = {}
    for name, stored in tensors.items():
        found = entry_of(name, config.cross_attention_layers or ())
        if found is None or not stored.shape:
            ours[name] = LazyTensor(stored.shape, stored.dtype, functools.partial(stored.read, []))  # to be refused
            continue
        prefix, entry, kind = found
        is_gamma = kind == "weight" and entry.ours[0].endswith("norm")
        for part, ranges in zip(entry.ours, rows_of(entry.cut, stored.shape[0], geometry), strict=True):
            key = f"{prefix}{part}.{kind}"
            ours[name if key in ours else key] = _lazy(stored, ranges, shift if is_gamma else 0)
    rows = tensors["embedding.word_embeddings.weight"].shape[0]
    origin = {
        "layout": layout,
        "path": str(place),
        "iteration": arguments.get("iteration"),
        "dropped_vocabulary_rows": rows - config.vocab_size,
    }
    return Source(config=config, tensors=ours, origin=origin)


def _lazy(stored: Stored, ranges: Ranges, shift: int) -> LazyTensor:
    shape = (sum(stop - start for start, stop in ranges), *stored.shape[1:])
    # a shifted gamma may need more bits than it had: float32 keeps it exact, and norms are small
    dtype = torch.float32 if shift else stored.dtype
    return LazyTensor(shape, dtype, functools.partial(_read, stored, ranges, shift))


def _read(stored: Stored, ranges: Ranges, shift: int) -> torch.Tensor:
    tensor = stored.read(ranges)
    return tensor.float() + shift if shift else tensor


class _Arguments:
    """Megatron's arguments; names differ between its argument parser and megatron-core's configuration."""

    def __init__(self, place: Path, values: Mapping[str, Any]) -> None:
        self.place, self.values = place, values

    def get(self, *names: str, default: Any = None) -> Any:
        """The first of `names` that is set."""
        return next((self.values[name] for name in names if self.values.get(name) is not None), default)

    def need(self, *names: str) -> Any:
        """As `get`; raises `ModelError` if none is set."""
        value = self.get(*names)
        if value is None:
            raise ModelError(f"{self.place}: its arguments hold no {' or '.join(names)}")
        return value


def _check_arguments(place: Path, values: Mapping[str, Any], names: Iterable[str]) -> None:
    wrong = [f"{key}={values[key]}" for key, bad in ABSENT.items() if key in values and values[key] in bad]
    wrong += [f"{key}={values[key]}" for key in ABSENT_UNLESS_ONE if values.get(key) not in (None, 1)]
    if "swiglu" not in values and values.get("gated_linear_unit") and "gelu" in str(values.get("activation_func")):
        wrong.append(f"activation_func={values['activation_func']}")
    positions = (
        "rope" if values.get("use_rotary_position_embeddings") else values.get("position_embedding_type", "rope")
    )
    if positions != "rope":
        wrong.append(f"position_embedding_type={positions}")
    wrong += [name for name in names if "position_embeddings." in name]
    if wrong:
        raise ModelError(
            f"{place}: {', '.join(wrong)}: our model has rotary positions, SwiGLU, pre-norm residuals and no biases, "
            "as NVIDIA's RETRO and its GPT have; this checkpoint is of another architecture"
        )
    if "embedding.word_embeddings.weight" not in names:
        some = ", ".join(sorted(names)[:3]) or "none"
        raise ModelError(
            f"{place}: no embedding.word_embeddings.weight among its tensors ({some}, ...): not a whole GPT"
        )


def _configuration(
    place: Path,
    arguments: _Arguments,
    tensors: Mapping[str, Stored],
    chunk_length: int | None,
    vocab_size: int | None,
) -> RetroConfig:
    layers, heads = arguments.need("num_layers"), arguments.need("num_attention_heads")
    embedding = tensors["embedding.word_embeddings.weight"]
    core = any(name.startswith("decoder.") for name in tensors)
    retro = arguments.get("retro_add_retriever", default=has_retriever(tensors))
    final_norm = not (core and retro) or any(name.startswith("decoder.final_layernorm.") for name in tensors)
    grouped = arguments.get("group_query_attention", default=True)
    tied = arguments.get("share_embeddings_and_output_weights")
    if tied is None:
        untied = arguments.get("untie_embeddings_and_output_weights", default="output_layer.weight" in tensors)
        tied = not untied
    norm = arguments.get("normalization", default="LayerNorm")
    if norm not in NORMS:
        raise ModelError(f"{place}: normalization={norm}: known are {', '.join(NORMS)}")
    values: dict[str, Any] = {
        "vocab_size": _vocab_size(place, arguments, embedding.shape[0], vocab_size),
        "hidden_size": arguments.need("hidden_size"),
        "intermediate_size": arguments.need("ffn_hidden_size"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": arguments.get("num_query_groups", default=heads) if grouped else heads,
        "head_dim": arguments.get("kv_channels"),
        "max_position_embeddings": arguments.need("max_position_embeddings", "max_sequence_length", "seq_length"),
        "rope_theta": float(arguments.get("rotary_base", default=10_000)),
        "rotary_share": float(arguments.get("rotary_percent", default=1.0)),
        "norm": NORMS[norm],
        "norm_eps": arguments.get("norm_epsilon", "layernorm_epsilon", default=1e-5),
        "attention_bias": bool(arguments.get("add_qkv_bias", default=False)),
        "tie_word_embeddings": bool(tied),
        "final_norm": final_norm,
        "encoder_residual": "normed" if core else "pre_norm",
        "short_chunk": "last",
        "cross_attention_layers": default_cross_attention_layers(layers) if retro else [],
        "dtype": embedding.dtype,
    }
    if retro:
        length = _chunk_length(place, arguments, chunk_length)
        values |= {
            "chunk_length": length,
            "retrieved_length": length * arguments.get("retro_num_retrieved_chunks", default=2),
            "encoder_num_layers": arguments.get("retro_encoder_layers", "retro_encoder_num_layers", default=2),
            "retrieval_gate": float(arguments.get("retro_attention_gate", default=1.0)),
        }
        if not values["cross_attention_layers"]:
            raise ModelError(f"{place}: {layers} layers: RETRO needs 6 or more, no layer would have cross-attention")
    try:
        return RetroConfig(**values)
    except (ValueError, StrictDataclassError) as error:
        raise ModelError(f"{place}: its arguments contradict each other: {error}") from error


NORMS = {"LayerNorm": "layernorm1p", "RMSNorm": "rmsnorm"}
"""Megatron's norms -> ours."""


def _gamma_shift(config: RetroConfig, arguments: _Arguments) -> int:
    """What to add to a stored gamma: ours of LayerNorm is its difference from one, of RMSNorm the factor itself."""
    stored_less_one = bool(arguments.get("apply_layernorm_1p", "layernorm_zero_centered_gamma", default=False))
    ours_less_one = config.norm == "layernorm1p"
    return int(stored_less_one) - int(ours_less_one)


def _vocab_size(place: Path, arguments: _Arguments, rows: int, given: int | None) -> int:
    size = given or arguments.get("vocab_size")
    if size is None:
        raise ModelError(
            f"{place}: its {rows} embedding rows are padded and it does not say by how many: give the tokenizer "
            "(--tokenizer PATH) or the number of its pieces (--vocab-size N)"
        )
    if not 0 < size <= rows:
        raise ModelError(f"{place}: a vocabulary of {size}, but there are {rows} embedding rows: the wrong tokenizer?")
    return int(size)


def _chunk_length(place: Path, arguments: _Arguments, given: int | None) -> int:
    held = arguments.get("retro_chunk_length", "retro_gpt_chunk_length", "chunk_length")
    if held is None and given is None:
        raise ModelError(
            f"{place}: a RETRO that does not say how long its chunks are: give --chunk-length N (NVIDIA: 64)"
        )
    if held is not None and given is not None and held != given:
        raise ModelError(f"{place}: --chunk-length {given}, but the checkpoint was trained with chunks of {held}")
    return int(held or given or 0)
