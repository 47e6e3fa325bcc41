"""megatron-core's checkpoints: `torch_dist` folders, and plain state dicts in safetensors with a config.json."""

import functools
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.distributed.checkpoint import metadata

from retrotune.errors import ModelError
from retrotune.models.convert.names import IGNORED
from retrotune.models.convert.pickles import load_lazily, read_description
from retrotune.models.convert.stored import Block, Piece, Stored
from retrotune.runtime.files import read_json

DESCRIPTION, COMMON = ".metadata", "common.pt"
BESIDE = ("optimizer.", "rng_state", "rerun_state_machine", *IGNORED)
"""Parts of names of what is saved beside the weights."""


def is_distributed(folder: Path) -> bool:
    """Whether a folder is a `torch_dist` checkpoint, even one that lost its description."""
    return (folder / DESCRIPTION).is_file() or any(folder.glob("*.distcp"))


def read_distributed(folder: Path) -> tuple[dict[str, Any], dict[str, Stored]]:
    """(arguments, tensors by megatron-core's names) of a `torch_dist` folder; no tensor is read.

    Raises `ModelError` for missing, truncated or untrusted files, and for tensors that are not there as a whole.
    """
    for name in (DESCRIPTION, COMMON):
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder / name}: no such file, though *.distcp files are there: copy it, dot file or not"
            )
    common = load_lazily(folder / COMMON).value
    arguments = common.get("args") if isinstance(common, dict) else None
    if not isinstance(arguments, Namespace):
        raise ModelError(f"{folder / COMMON}: holds no `args`: not a checkpoint that Megatron-LM saved")
    description = read_description(folder / DESCRIPTION)
    files: dict[tuple[str, tuple[int, ...]], Any] = {
        (index.fqn, tuple(index.offset or ())): info for index, info in description.storage_data.items()
    }
    tensors = {}
    for name, tensor in description.state_dict_metadata.items():
        if isinstance(tensor, metadata.TensorStorageMetadata) and not any(mark in name for mark in BESIDE):
            try:
                tensors[name.removeprefix("model.")] = _stored(folder, name, tensor, files)
            except (AttributeError, TypeError, ValueError) as error:
                raise ModelError(f"{folder / DESCRIPTION}: {name}: damaged ({error}); copy it again") from error
    return vars(arguments), tensors


def _stored(
    folder: Path,
    name: str,
    tensor: metadata.TensorStorageMetadata,
    files: dict[tuple[str, tuple[int, ...]], Any],
) -> Stored:
    shape, dtype = tuple(tensor.size), tensor.properties.dtype
    pieces = []
    for chunk in tensor.chunks:
        start, extent = tuple(chunk.offsets), tuple(chunk.sizes)
        info = files.get((name, start))
        if info is None:
            raise ModelError(f"{folder / DESCRIPTION}: {name}: no file is named for the part at {start}; copy it again")
        path = folder / info.relative_path
        if path.parent != folder or not path.is_file():
            raise ModelError(f"{path}: no such file, but {name} should be in it; copy the whole folder")
        if path.stat().st_size < info.offset + info.length:
            raise ModelError(f"{path}: truncated: {name} ends at byte {info.offset + info.length}; copy it again")
        if getattr(info, "transform_descriptors", None):
            raise ModelError(f"{path}: {name}: stored as {info.transform_descriptors}; save it without compression")
        locate = functools.cache(functools.partial(_locate, path, name, info.offset, info.length, extent, dtype))
        pieces.append(Piece(start, extent, locate))
    stored = Stored(shape, dtype, tuple(pieces))
    if not stored.is_covered():
        raise ModelError(
            f"{folder / DESCRIPTION}: {name} {shape}: the parts that are there do not make the whole tensor"
        )
    return stored


def _locate(path: Path, name: str, start: int, length: int, shape: tuple[int, ...], dtype: torch.dtype | None) -> Block:
    """Where a part's bytes are: torch.save wrote each part into a file of its own within the file."""
    saved = load_lazily(path, start, length)
    if not isinstance(saved.value, torch.Tensor):
        raise ModelError(f"{path}: {name}: a {type(saved.value).__name__} instead of a tensor; damaged?")
    block = saved.block(saved.value, name)
    if block.shape != shape or block.dtype != dtype:
        raise ModelError(f"{path}: {name}: a part of {block.shape} {block.dtype} instead of {shape} {dtype}; damaged?")
    return block


def is_state_dict(folder: Path) -> bool:
    """Whether a folder is a plain megatron-core state dict: safetensors whose config.json is not transformers'."""
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        return False
    config = read_json(folder / "config.json", allow_nan=True)
    return isinstance(config, dict) and "model_type" not in config and "num_layers" in config


def read_state_dict(folder: Path) -> tuple[dict[str, Any], dict[str, Stored]]:
    """(config.json, tensors by megatron-core's names) of a plain state dict; no tensor is read.

    Raises `ModelError` for a tensor that lies in two files.
    """
    tensors: dict[str, Stored] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found = {
            name: Stored.whole(block)
            for name, block in safetensors_blocks(path).items()
            if not any(mark in name for mark in IGNORED)
        }
        if twice := sorted(found.keys() & tensors.keys()):
            raise ModelError(
                f"{path}: {twice[0]} lies in another file of the folder too: leave one copy of the weights"
            )
        tensors |= found
    return read_json(folder / "config.json", allow_nan=True), tensors


DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
}  # fmt: skip


def safetensors_blocks(path: Path) -> dict[str, Block]:
    """Where the tensors of a safetensors file lie. Raises `ModelError` if it is damaged."""
    try:
        with safe_open(path, framework="pt"):  # checks the header against the file
            pass
    except SafetensorError as error:
        raise ModelError(f"{path}: truncated or damaged ({error}); copy it again") from error
    with open(path, "rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
    header.pop("__metadata__", None)
    blocks = {}
    for name, tensor in header.items():
        if tensor["dtype"] not in DTYPES:
            raise ModelError(f"{path}: {name} is {tensor['dtype']}: known are {', '.join(DTYPES)}")
        offset = 8 + size + tensor["data_offsets"][0]
        blocks[name] = Block(path, offset, tuple(tensor["shape"]), DTYPES[tensor["dtype"]])
    return blocks
