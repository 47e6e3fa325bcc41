"""Checkpoints of other programs become model folders that transformers loads."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from retrotune.errors import ModelError
from retrotune.models.convert.distributed import is_distributed, is_state_dict, read_distributed, read_state_dict
from retrotune.models.convert.legacy import is_legacy, read_legacy
from retrotune.models.convert.megatron import megatron_source
from retrotune.models.convert.source import Source
from retrotune.models.convert.writing import write_model
from retrotune.models.fetch import errors_of
from retrotune.models.packages import package_file
from retrotune.runtime.files import read_json
from retrotune.runtime.log import logger
from retrotune.study.model_folders import broken_link, check_window
from retrotune.study.stages import ConvertParams

LATEST = "latest_checkpointed_iteration.txt"
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.json")
"""Files of a Hugging Face tokenizer; a SentencePiece model is the only `*.model` of its folder."""
LAYOUTS = f"""a Megatron folder ({LATEST} or iter_*; in it mp_rank_*/model_optim_rng.pt, or .metadata and *.distcp), \
a megatron-core state dict (*.safetensors and a config.json with num_layers), \
a transformers folder (*.safetensors and a config.json with model_type), a .gguf file"""
"""What is looked for."""


def convert_checkpoint(
    source: str | Path,
    out: str | Path,
    chunk_length: int | None = None,
    vocab_size: int | None = None,
    tokenizer: str | Path | None = None,
    family: str | None = None,
    replace: bool = False,
    params: Mapping[str, Any] | None = None,
    max_length: int = 0,
) -> None:
    """Convert the checkpoint `source`, whatever its layout, into the model folder `out`.

    `chunk_length` (tokens, of a RETRO) and `vocab_size` (pieces, without padding) are for Megatron checkpoints that do
    not hold them; `tokenizer` is a file or folder, where the checkpoint has none. `family` (gpt, retro) is what the
    model must be, if given. `replace`: whatever lies in `out` may go. `params` go into the manifest. `max_length`:
    tokens of the longest example of cells, if the model is for some; there must then be a tokenizer, with a piece that
    ends a text. Names and shapes of all tensors are checked before the first one
    is read; `manifest.json` is written last.

    Raises `ModelError` if no known layout is found, for other model families and for damaged or partial checkpoints.
    """
    place, folder = Path(source), Path(out)
    for option, number in (("--chunk-length", chunk_length), ("--vocab-size", vocab_size)):
        if number is not None and number < 1:
            raise ModelError(f"{place}: {option} {number}: must be at least 1; leave it out if the checkpoint holds it")
    if folder.resolve() == place.resolve() or folder.resolve() in place.resolve().parents:
        raise ModelError(f"{folder}: the checkpoint lies there: give another folder to write to")
    found = Path(tokenizer) if tokenizer is not None else find_tokenizer(place)
    for read in (place, iteration_folder(place)):
        if problem := broken_link(read):
            raise ModelError(problem)
    with TemporaryDirectory() as staging:
        facts = _write_tokenizer(found, Path(staging)) if found is not None else {}
        model = read_source(place, chunk_length, vocab_size, facts.get("vocab_size"))
        _apply(model, facts, found)
        kind = "retro" if model.config.cross_attention_layers else "gpt"
        if family not in (None, kind):
            raise ModelError(f"{place}: a {kind} checkpoint, where a {family} model is asked for")
        check_window(model.config.max_position_embeddings, max_length, str(place))
        if max_length and facts.get("eos_token_id") is None:
            lacks = f"{place}: no tokenizer there" if found is None else f"{found}: no token ends a text (eos_token)"
            raise ModelError(f"{lacks}: name a tokenizer in models.NAME.checkpoint.tokenizer, or correct this one")
        if found is None:
            logger.warning("%s: no tokenizer there: give one (--tokenizer PATH), or put it into %s", place, folder)
        write_model(model, folder, place, Path(staging) if found is not None else None, replace, params)


def convert_model(params: ConvertParams, out: str | Path, packages: str | Path, name: str, max_length: int) -> None:
    """Convert the checkpoint of a study's model `name`, for examples of `max_length` tokens, into the folder `out`.

    One of a Python package is put below `packages` first. Raises as `convert_checkpoint` and `package_file` do, also
    where no token ends a text; messages name the study's entry.
    """
    with errors_of(name, "checkpoint", params.path, out):
        source = params.path if params.package is None else package_file(params.package, params.path, packages)
        convert_checkpoint(
            source,
            out,
            chunk_length=params.chunk_length,
            vocab_size=params.vocab_size,
            tokenizer=params.tokenizer,
            family=params.family,
            replace=True,
            params=params.recorded(),
            max_length=max_length,
        )


def read_source(
    place: Path, chunk_length: int | None = None, vocab_size: int | None = None, pieces: int | None = None
) -> Source:
    """The checkpoint at `place`, nothing of it in memory. `pieces`: of the tokenizer, where it is known."""
    if not place.exists():
        raise ModelError(f"{place}: no such file or folder; looked for {LAYOUTS}")
    folder = iteration_folder(place)
    options: dict[str, Any] = {"chunk_length": chunk_length, "vocab_size": vocab_size, "pieces": pieces}
    if is_legacy(folder):
        return megatron_source(folder, "megatron-legacy", *read_legacy(folder), **options)
    if is_distributed(folder):
        return megatron_source(folder, "megatron-core-torch-dist", *read_distributed(folder), **options)
    if is_state_dict(folder):
        return megatron_source(folder, "megatron-core-state-dict", *read_state_dict(folder), **options)
    if place.suffix == ".gguf" or _is_transformers(place):
        from retrotune.models.convert.llama import read_gguf, read_llama

        if vocab_size is not None:
            raise ModelError(f"{place}: --vocab-size {vocab_size}: only Megatron pads vocabularies; leave it out")
        return read_gguf(place) if place.is_file() else read_llama(place)
    raise ModelError(f"{place}: no checkpoint of a known layout: looked for {LAYOUTS}")


def iteration_folder(place: Path) -> Path:
    """The folder of a Megatron checkpoint's last iteration; `place` itself if it is one, or no such checkpoint."""
    latest = place / LATEST
    if latest.is_file():
        name = latest.read_text(encoding="utf-8", errors="replace").strip()
        folder = place / (f"iter_{int(name):07d}" if name.isdecimal() else name)
        if not name or folder.parent != place or not folder.is_dir():
            raise ModelError(
                f"{latest}: says {name!r}, but there is no folder {folder}; copy it, or name another folder"
            )
        return folder
    iterations = sorted(place.glob("iter_*")) if place.is_dir() else []
    if len(iterations) > 1:
        raise ModelError(f"{place}: {len(iterations)} iterations and no {LATEST}: name one of the folders")
    return iterations[0] if iterations else place


def find_tokenizer(place: Path) -> Path | None:
    """The tokenizer that comes with a checkpoint: beside its weights, in the folder above an iteration, in a .gguf."""
    if place.suffix == ".gguf" and place.is_file():
        return place
    for folder in (place, *([place.parent] if place.name.startswith("iter_") else [])):
        if any((folder / name).is_file() for name in TOKENIZERS):
            return folder
        models = sorted(folder.glob("*.model"))
        if len(models) == 1:
            return models[0]
    return None


def _is_transformers(place: Path) -> bool:
    config = read_json(place / "config.json", allow_nan=True) if (place / "config.json").is_file() else None
    return isinstance(config, dict) and "model_type" in config


def _write_tokenizer(tokenizer: Path, out: Path) -> dict[str, Any]:
    from retrotune.models.convert.tokenizers import write_tokenizer

    return dict(write_tokenizer(tokenizer, out))


def _apply(model: Source, facts: dict[str, Any], tokenizer: Path | None) -> None:
    """Put the tokenizer's special tokens into the configuration; `ModelError` if it has more pieces than the model."""
    pieces = facts.get("vocab_size")
    if pieces is not None and pieces > model.config.vocab_size:
        raise ModelError(f"{tokenizer}: {pieces} pieces, but the model has {model.config.vocab_size} embeddings")
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        held = getattr(model.config, key)
        several = isinstance(held, list) and facts.get(key) in held  # Llama 3 Instruct ends texts in more than one way
        if facts.get(key) is not None and not several:
            setattr(model.config, key, facts[key])
