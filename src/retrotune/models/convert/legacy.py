"""Megatron's own shards: one file per tensor-parallel rank, `iter_*/mp_rank_XX/model_optim_rng.pt`."""

import filecmp
import itertools
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from retrotune.errors import ModelError
from retrotune.models.convert.names import IGNORED, entry_of
from retrotune.models.convert.pickles import Saved, load_lazily
from retrotune.models.convert.stored import Block, Piece, Stored

SHARD = "model_optim_rng.pt"
AGREEING = (
    "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "kv_channels", "num_query_groups",
    "padded_vocab_size", "tensor_model_parallel_size", "pipeline_model_parallel_size", "apply_layernorm_1p",
    "retro_add_retriever", "retro_attention_gate", "params_dtype", "iteration",
)  # fmt: skip
"""Arguments in which the shards of one checkpoint cannot differ."""

OLDEST_VERSION = 2.0
"""Of `checkpoint_version`: before it, rows of fused attention were not grouped by head."""


def is_legacy(folder: Path) -> bool:
    """Whether a folder holds ranks."""
    return any(folder.glob("mp_rank_*"))


def read_legacy(folder: Path) -> tuple[dict[str, Any], dict[str, Stored]]:
    """(arguments, tensors by Megatron's names, merged over ranks) of an `iter_*` folder; no tensor is read but norms.

    Raises `ModelError` for pipeline-parallel shards, missing or damaged ones, and shards that do not belong together.
    """
    ranks = sorted(path for path in folder.glob("mp_rank_*") if path.is_dir())
    pipelined = [path.name for path in ranks if path.name.count("_") > 2]  # mp_rank_00_000
    if pipelined:
        raise ModelError(
            f"{folder}: {', '.join(pipelined)}: pipeline-parallel shards are not merged (RETRO is never trained so); "
            "save the checkpoint with Megatron's tools for pipeline size 1"
        )
    shards = [load_lazily(_shard(path)) for path in ranks]
    arguments = [_arguments(shard) for shard in shards]
    _check_ranks(folder, ranks, arguments)
    version = shards[0].value.get("checkpoint_version", 0)
    if version < OLDEST_VERSION:
        raise ModelError(
            f"{folder}: checkpoint_version {version}: its attention rows have an older order; "
            "save it with Megatron 2.0 or later"
        )
    return arguments[0], _merge(ranks, [dict(_blocks(shard, shard.value["model"])) for shard in shards])


def _shard(rank: Path) -> Path:
    path = rank / SHARD
    if not path.is_file():
        raise ModelError(f"{path}: no such file; a distributed optimizer's other files are not needed, this one is")
    return path


def _arguments(shard: Saved) -> dict[str, Any]:
    value = shard.value
    whole = isinstance(value, Mapping) and isinstance(value.get("model"), Mapping)
    if not whole or not isinstance(value.get("args"), Namespace):
        raise ModelError(f"{shard.path}: no `model` and `args` in it: not a checkpoint that Megatron saved")
    return vars(value["args"]) | {"iteration": value.get("iteration")}


def _check_ranks(folder: Path, ranks: Sequence[Path], arguments: Sequence[Mapping[str, Any]]) -> None:
    size = arguments[0].get("tensor_model_parallel_size", 1)
    wanted = [f"mp_rank_{rank:02d}" for rank in range(size)]
    found = [path.name for path in ranks]
    if found != wanted:
        absent, more = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
        raise ModelError(
            f"{folder}: tensor-parallel size {size} in {ranks[0].name}, but missing {', '.join(absent) or 'none'}, "
            f"too many {', '.join(more) or 'none'}: shards of one checkpoint belong into one folder"
        )
    for path, other in zip(ranks, arguments, strict=True):
        for key in AGREEING:
            if other.get(key) != arguments[0].get(key):
                raise ModelError(
                    f"{folder}: {key} is {arguments[0].get(key)} in {ranks[0].name} and {other.get(key)} in "
                    f"{path.name}: shards of different checkpoints are mixed"
                )
    for first, second in itertools.combinations(ranks, 2):
        if filecmp.cmp(first / SHARD, second / SHARD, shallow=False):
            raise ModelError(f"{folder}: {first.name} and {second.name} hold the same shard: copy each rank again")


def _blocks(shard: Saved, node: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, Block]]:
    """Tensors of nested dictionaries; `language_model` is no part of their names."""
    for key, value in node.items():
        name = f"{start}{key}"
        if isinstance(value, Mapping):
            yield from _blocks(shard, value, "" if name == "language_model" else f"{name}.")
        elif isinstance(value, torch.Tensor) and not any(mark in name for mark in IGNORED):
            yield name, shard.block(value, name)


def _merge(ranks: Sequence[Path], shards: Sequence[Mapping[str, Block]]) -> dict[str, Stored]:
    """Place the ranks' parts in the whole tensors."""
    merged = {}
    for name in sorted({name for shard in shards for name in shard}):
        blocks = [shard.get(name) for shard in shards]
        described = {
            path.name: None if block is None else (block.shape, block.dtype)
            for path, block in zip(ranks, blocks, strict=True)
        }
        if len(set(described.values())) > 1:
            raise ModelError(
                f"{ranks[0].parent}: {name} differs between ranks ({described}): a shard is partial, or shards "
                "of different checkpoints are mixed"
            )
        merged[name] = _whole(name, [block for block in blocks if block is not None])
    return merged


def _whole(name: str, blocks: list[Block]) -> Stored:
    # any layer may have cross-attention here: the axis that ranks share does not depend on it
    number = [int(part) for part in name.split(".") if part.isdigit()][:1]
    found = entry_of(name, number)
    axis = None if found is None else found[1].parallel_axis
    first, shape = blocks[0], list(blocks[0].shape)
    if axis is None or axis >= len(shape):
        return _replicated(name, blocks)
    if found is not None and found[1].cut == "halves":
        half = shape[0] // 2
        parts = [block.rows(start, start + half) for start in (0, half) for block in blocks]
    else:
        parts = blocks
    size = parts[0].shape[axis]
    shape[axis] = size * len(parts)
    pieces = []
    for number_of_part, part in enumerate(parts):
        start = [0] * len(shape)
        start[axis] = number_of_part * size
        pieces.append(Piece(tuple(start), part.shape, lambda part=part: part))  # type: ignore[misc]
    return Stored(tuple(shape), first.dtype, tuple(pieces))


def _replicated(name: str, blocks: list[Block]) -> Stored:
    """What every rank holds; that all hold the same shows that their shards are of one checkpoint."""
    stored = [Stored.whole(block) for block in blocks]
    if len(blocks) > 1 and len(blocks[0].shape) == 1:
        values = [tensor.read([(0, tensor.shape[0])]) for tensor in stored]
        for block, value in zip(blocks, values, strict=True):
            if not torch.equal(value.view(torch.uint8), values[0].view(torch.uint8)):
                raise ModelError(
                    f"{name} differs between {blocks[0].path} and {block.path}, where every rank has the same: shards "
                    "of different checkpoints are mixed"
                )
    return stored[0]
