"""A source becomes a model folder in transformers layout, tensor by tensor."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from retrotune.errors import ModelError
from retrotune.models.convert.source import LazyTensor, Source
from retrotune.models.fetch import write_manifest
from retrotune.models.retro.configuration import RetroConfig
from retrotune.models.retro.modeling import RetroForCausalLM
from retrotune.models.sizes import departures
from retrotune.runtime.files import atomic_write, write_json, write_text
from retrotune.runtime.log import logger, progress

SHARD_BYTES = 1 << 30
"""Tensors of so many bytes together are in memory before they are written; larger ones are alone in their file."""

MARK = ".converted"
"""Written first into a folder that is ours to write to; `manifest.json`, written last, says that the model is whole."""


def expected_shapes(config: RetroConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights that a folder of this configuration holds."""
    with torch.device("meta"):
        model = RetroForCausalLM(config)
    tied = RetroForCausalLM._tied_weights_keys if config.tie_word_embeddings else {}
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}


def check_tensors(source: Source, place: str | Path) -> list[str]:
    """Names of the tensors in the order of the model.

    Raises `ModelError` that names each tensor that is missing, not known, or of another shape.
    """
    wanted = expected_shapes(source.config)
    found = {name: tensor.shape for name, tensor in source.tensors.items()}
    problems = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unexpected": [f"{name} {found[name]}" for name in sorted(found.keys() - wanted.keys())],
        "of another shape": [
            f"{name} {found[name]}, not {wanted[name]}"
            for name in sorted(wanted.keys() & found.keys())
            if found[name] != wanted[name]
        ],
    }
    if any(problems.values()):
        said = "; ".join(f"{len(names)} {what}: {', '.join(names)}" for what, names in problems.items() if names)
        raise ModelError(f"{place}: its tensors are not those of the model that it describes: {said}")
    return list(wanted)


def prepare_folder(out: Path, place: str | Path, replace: bool) -> None:
    """Make `out` an empty folder, ours.

    Raises `ModelError` if it holds anything that no conversion put there, unless `replace` says that it may go.
    """
    if not replace and out.exists() and not (out.is_dir() and ((out / MARK).is_file() or not any(out.iterdir()))):
        raise ModelError(f"{out}: not empty, and not made by a conversion: give a new folder")
    (out / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(out, ignore_errors=True)
    write_text(out / MARK, f"{place}\n")


def write_model(
    source: Source,
    out: Path,
    place: str | Path,
    tokenizer: Path | None = None,
    replace: bool = False,
    params: Mapping[str, Any] | None = None,
) -> None:
    """Write weights, tokenizer files (those in the folder `tokenizer`), configuration and, last, the manifest.

    Memory: one shard of about a gigabyte, or the largest tensor where that is more.
    """
    names = check_tensors(source, place)
    prepare_folder(out, place, replace)
    _write_weights({name: source.tensors[name] for name in names}, out)
    if tokenizer is not None:
        shutil.copytree(tokenizer, out, dirs_exist_ok=True)
    source.config.architectures = [RetroForCausalLM.__name__]
    source.config.save_pretrained(out)
    write_manifest(
        out, {"checkpoint": str(place), **source.origin}, departures=departures(source.config), params=params
    )


def _write_weights(tensors: Mapping[str, LazyTensor], out: Path) -> None:
    shards = list(_shards(tensors))
    files: dict[str, str] = {}
    for number, names in enumerate(progress(shards, "tensors written", len(tensors), size=len), start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
        with atomic_write(out / file) as temporary:
            save_file({name: tensors[name].read() for name in names}, temporary, metadata={"format": "pt"})
        files |= dict.fromkeys(names, file)
        logger.info("%s: %d of %d files written", out, number, len(shards))
    if len(shards) > 1:
        size = sum(_bytes(tensor) for tensor in tensors.values())
        write_json(out / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": files})


def _shards(tensors: Mapping[str, LazyTensor]) -> Iterator[list[str]]:
    shard: list[str] = []
    filled = 0
    for name, tensor in tensors.items():
        if shard and filled + _bytes(tensor) > SHARD_BYTES:
            yield shard
            shard, filled = [], 0
        shard.append(name)
        filled += _bytes(tensor)
    if shard:
        yield shard


def _bytes(tensor: LazyTensor) -> int:
    return tensor.dtype.itemsize * torch.Size(tensor.shape).numel()
