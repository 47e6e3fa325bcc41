"""Megatron's names and layouts of weights, legacy and megatron-core, and what they are called here."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from retrotune.models.convert.stored import Ranges, Stored

Cut = Literal["whole", "qkv", "kv", "halves", "vocabulary"]


@dataclass(frozen=True)
class Entry:
    """A weight of Megatron: our names of its parts, how its rows are cut into them, and which axis ranks share."""

    ours: tuple[str, ...]
    cut: Cut = "whole"
    parallel_axis: int | None = None


@dataclass(frozen=True)
class Geometry:
    """Sizes that say where the rows of fused weights belong."""

    num_heads: int
    num_groups: int
    head_dim: int
    ffn_size: int
    vocab_size: int


def _entries(table: Mapping[tuple[str, ...], Entry]) -> dict[str, Entry]:
    return {name: entry for names, entry in table.items() for name in names}


_QKV = tuple(f"self_attention.{part}_proj" for part in "qkv")
_KV = tuple(f"cross_attention.{part}_proj" for part in "kv")

LAYER = _entries(
    {
        ("input_norm", "input_layernorm", "self_attention.linear_qkv.layer_norm"): Entry(("input_norm",)),
        ("self_attention.query_key_value", "self_attention.linear_qkv"): Entry(_QKV, "qkv", 0),
        ("self_attention.dense", "self_attention.linear_proj"): Entry(("self_attention.o_proj",), parallel_axis=1),
        ("pre_cross_attn_layernorm",): Entry(("cross_norm",)),
        ("inter_attention.query", "cross_attention.attn.linear_q"): Entry(("cross_attention.q_proj",), parallel_axis=0),
        ("inter_attention.key_value", "cross_attention.attn.linear_kv"): Entry(_KV, "kv", 0),
        ("inter_attention.dense", "cross_attention.attn.linear_proj"): Entry(
            ("cross_attention.o_proj",), parallel_axis=1
        ),
        ("pre_mlp_layernorm", "pre_mlp_layernorm.norm", "mlp.linear_fc1.layer_norm"): Entry(("mlp_norm",)),
        ("post_inter_attention_norm", "post_inter_attention_layernorm"): Entry(("mlp_norm",)),
        ("mlp.dense_h_to_4h", "mlp.linear_fc1"): Entry(("mlp.gate_proj", "mlp.up_proj"), "halves", 0),
        ("mlp.dense_4h_to_h", "mlp.linear_fc2"): Entry(("mlp.down_proj",), parallel_axis=1),
    }
)
"""Weights of a layer of decoder or encoder; legacy names first."""

AFTER_ATTENTION = ("post_attention_norm", "post_attention_layernorm")
"""Legacy: the norm after self-attention, which the cross-attention of a layer reads if it has one, else its MLP."""

OUTSIDE = _entries(
    {
        ("embedding.word_embeddings",): Entry(("model.embed_tokens",), "vocabulary", 0),
        ("output_layer",): Entry(("lm_head",), "vocabulary", 0),
        ("encoder.final_norm", "encoder.final_layernorm", "decoder.final_layernorm"): Entry(("model.norm",)),
    }
)

LEAF = re.compile(r"(?P<module>.+?)[._](?P<kind>weight|bias)")
IN_ENCODER = re.compile(
    r"(?:encoder|decoder)\.layers\.(?P<owner>\d+)\.(?:retriever|cross_attention\.encoder)"
    r"\.layers\.(?P<layer>\d+)\.(?P<rest>.+)"
)
IN_DECODER = re.compile(r"(?:encoder|decoder)\.layers\.(?P<layer>\d+)\.(?P<rest>.+)")
STACKED = re.compile(r"decoder\.layers\.(?P<rest>(?!\d).+)")

IGNORED = ("_extra_state", "rotary_pos_emb.inv_freq")
"""Parts of names of what is no weight: bookkeeping of Transformer Engine, and what is computed anew."""

FOREIGN = {
    "pooler.": "BERT", "binary_head.": "BERT", "lm_head.": "BERT", "embedding.tokentype_embeddings.": "BERT",
    "cls_token": "vision", "mixer.": "Mamba", "router.": "mixture of experts", "experts.": "mixture of experts",
}  # fmt: skip


def foreign_family(names: Iterable[str]) -> tuple[str, str] | None:
    """(family, tensor that tells) of a Megatron checkpoint that is neither GPT nor RETRO."""
    names = sorted(names)
    for name in names:
        for mark, family in FOREIGN.items():
            if name.startswith(mark) or f".{mark}" in name:
                return family, name
    encoders = [name for name in names if name.startswith("encoder.layers.")]
    if encoders and any(name.startswith("decoder.layers.") for name in names):
        return "T5", encoders[0]
    if encoders and any(".linear_qkv" in name for name in encoders):
        return "BERT", encoders[0]
    return None


def has_retriever(names: Iterable[str]) -> bool:
    """Whether a decoder layer has cross-attention or owns an encoder."""
    return any(re.search(r"\.(inter_attention|cross_attention|retriever)\.", name) for name in names)


def unstacked(tensors: Mapping[str, Stored]) -> Iterator[tuple[str, Stored]]:
    """Tensors with numbered layers: megatron-core stacks the layers of a plain GPT in one tensor, layers first."""
    for name, stored in tensors.items():
        if (found := STACKED.fullmatch(name)) and stored.shape:
            for layer in range(stored.shape[0]):
                yield f"decoder.layers.{layer}.{found['rest']}", stored.entry(layer)
        else:
            yield name, stored


def entry_of(name: str, cross_layers: Iterable[int]) -> tuple[str, Entry, str] | None:
    """(our prefix, entry, weight or bias) of one of Megatron's names; None if it is not known.

    The encoder belongs to the first cross-attention layer, and its own first layer has cross-attention.
    """
    cross_layers = sorted(cross_layers)
    leaf = LEAF.fullmatch(name)
    if leaf is None:
        return None
    module, kind = leaf["module"], leaf["kind"]
    if module in OUTSIDE:
        return "", OUTSIDE[module], kind
    if found := IN_ENCODER.fullmatch(module):
        if int(found["owner"]) not in cross_layers[:1]:
            return None
        prefix, cross = f"model.neighbor_encoder.layers.{found['layer']}.", int(found["layer"]) == 0
    elif found := IN_DECODER.fullmatch(module):
        prefix, cross = f"model.layers.{found['layer']}.", int(found["layer"]) in cross_layers
    else:
        return None
    if found["rest"] in AFTER_ATTENTION:
        return prefix, Entry(("cross_norm" if cross else "mlp_norm",)), kind
    entry = LAYER.get(found["rest"])
    return None if entry is None else (prefix, entry, kind)


def rows_of(cut: Cut, rows: int, geometry: Geometry) -> list[Ranges]:
    """For each part, its ranges of the `rows` of a stored weight.

    Rows of fused attention are grouped by head: of each group [queries, key, value], of each head of cross-attention
    [key, value]. What a weight has too many or too few stays with the last part, whose shape then shows it.
    """
    width = geometry.head_dim
    if cut == "vocabulary":
        return [[(0, min(geometry.vocab_size, rows))]]
    if cut == "qkv":
        sizes, groups = [geometry.num_heads // geometry.num_groups * width, width, width], geometry.num_groups
    elif cut == "kv":
        sizes, groups = [width, width], geometry.num_heads
    elif cut == "halves":
        sizes, groups = [geometry.ffn_size, geometry.ffn_size], 1
    else:
        sizes, groups = [rows], 1
    starts = [sum(sizes[:part]) for part in range(len(sizes))]
    found = [
        [(group * sum(sizes) + start, group * sum(sizes) + start + size) for group in range(groups)]
        for start, size in zip(starts, sizes, strict=True)
    ]
    whole = groups * sum(sizes)
    if rows > whole:
        found[-1].append((whole, rows))
    return [[(min(a, rows), min(b, rows)) for a, b in part] for part in found]
