"""Loading base models and tokenizers from folders in transformers layout."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from retrotune.errors import ModelError
from retrotune.files import read_result, sha256, sha256_text
from retrotune.models.scratch import nearby

NAMED_WEIGHTS = 3
"""So many weights are named where a model folder is not whole; the others are counted."""

WEIGHTS_SHARE = 0.8
"""Share of a GPU that weights may take where a model is spread over several; activations and caches need the rest."""

REMEDY = "repair its source, or delete the folder and make it again with the workflow's `models` target"


def load_model(
    path: str | Path,
    dtype: torch.dtype | None = None,
    device: str | None = None,
    retrieval_gate: float | None = None,
    without_weights: bool = False,
    device_map: Mapping[str, Any] | None = None,
) -> PreTrainedModel:
    """The causal language model in folder `path`, in evaluation mode; safetensors only.

    `without_weights`: its parameters have no storage (`meta`), for a process that gets them from another one.
    `device_map` (see `spread`) puts its parts on several devices, in place of `device`. `retrieval_gate` (RETRO only)
    stands in its configuration from then on, in place of the folder's.
    Raises `ModelError` if the folder is missing, holds no model that transformers knows, or if its weights are damaged
    or not exactly those of its configuration: transformers would fill gaps with random numbers. So does a gate for a
    model that reads no neighbors.
    """
    folder = _folder(path)
    try:
        if without_weights:
            model = _empty(folder, dtype or torch.float32)
            info: dict[str, Any] = {}
        else:
            with nearby(folder) as path:
                model, info = AutoModelForCausalLM.from_pretrained(
                    path,
                    dtype=dtype or torch.float32,
                    use_safetensors=True,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # reported below, by name
                    device_map=None if device_map is None else dict(device_map),
                )
        # adapters name their base model: not the copy of it
        model.name_or_path = model.config.name_or_path = str(folder)
    except SafetensorError as error:
        raise ModelError(f"{folder}: weights are truncated or damaged ({error}); {REMEDY}") from error
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        raise ModelError(f"{folder}: cannot be loaded as a causal language model: {error}") from error
    if info:
        _check_whole(folder, info)
    if retrieval_gate is not None:
        if not reads_neighbors(model.config):
            raise ModelError(
                f"{folder}: retrieval_gate={retrieval_gate:g} was given for a {model.config.model_type} model without "
                "cross-attention layers: leave it out"
            )
        model.config.retrieval_gate = float(retrieval_gate)
    return (model.to(device) if device and device_map is None else model).eval()


def _empty(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    with without_storage():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(load_config(folder), dtype=dtype)
    model.tie_weights()
    return model


def gpu_map(path: str | Path, dtype: torch.dtype) -> dict[str, int] | None:
    """Which of several GPUs gets which part of the model in folder `path`; None where one GPU can hold all of it."""
    gpus = range(torch.cuda.device_count())
    if len(gpus) < 2:
        return None
    return spread(_empty(_folder(path), dtype), {gpu: torch.cuda.mem_get_info(gpu)[0] for gpu in gpus}, str(path))


def spread(model: PreTrainedModel, room: Mapping[int, int], name: str) -> dict[str, int] | None:
    """Device of each part of `model`, evenly over devices with `room` bytes each, the rest being for activations.

    No layer is divided. None if `WEIGHTS_SHARE` of the first device's room holds all. Raises `ModelError`, with the
    model's `name`, if all together do not.
    """
    from accelerate import infer_auto_device_map
    from accelerate.utils import compute_module_sizes, get_balanced_memory

    size = compute_module_sizes(model)[""]
    usable = {device: int(WEIGHTS_SHARE * free) for device, free in room.items()}
    if size <= usable[min(usable)]:
        return None
    whole = sorted(model._no_split_modules or ())
    even = get_balanced_memory(model, usable, no_split_module_classes=whole)
    placed: dict[str, Any] = infer_auto_device_map(model, even, no_split_module_classes=whole)
    if not set(placed.values()) <= set(usable):
        raise ModelError(
            f"{name}: {size / 1e9:.1f} GB of weights do not fit into {WEIGHTS_SHARE:.0%} of the {len(usable)} GPUs' "
            f"{sum(room.values()) / 1e9:.1f} GB: ask for more or larger ones in the model's resources"
        )
    return placed


@contextlib.contextmanager
def without_storage(wanted: bool = True) -> Iterator[None]:
    """Models made inside have parameters on `meta`; their buffers, which no checkpoint may hold, are real.

    Weights that are one (`tie_weights`) must be made so again afterwards.
    """
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False) if wanted else contextlib.nullcontext():
        yield


def reads_neighbors(config: Any) -> bool:
    """Whether a model with this configuration is a RETRO, and not a GPT of ours or of the hub."""
    return bool(getattr(config, "cross_attention_layers", None))


def input_digests(model_dir: str | Path, examples: str | Path, neighbors: str | Path | None) -> dict[str, str | None]:
    """The sha256 of the files that a cell's stage reads; of the base model its manifest's, None for what is absent."""
    manifest = Path(model_dir) / "manifest.json"
    files = {"examples": examples, "model": manifest if manifest.is_file() else None, "neighbors": neighbors}
    return {name: None if path is None else sha256(path) for name, path in files.items()}


def model_facts(model_dir: str | Path) -> dict[str, Any]:
    """What a base model's manifest says: `num_parameters`, `departures`, and `params`, what made it, where it says so.

    `fingerprint` is a digest of its weights, the same for the same weights wherever they come from.
    """
    path = Path(model_dir) / "manifest.json"
    manifest = read_result(path) if path.is_file() else {}
    weights = manifest.get("weights_sha256")
    return {
        "num_parameters": manifest.get("num_parameters"),
        "departures": manifest.get("departures", []),
        "params": manifest.get("params"),
        "fingerprint": None if weights is None else sha256_text(json.dumps(sorted(weights.values())))[:16],
    }


def _check_whole(folder: Path, info: Mapping[str, Any]) -> None:
    """Raise `ModelError` unless each weight of the model came from its folder; tied weights come with their other."""
    weights = {
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(info["unexpected_keys"]),
        "of another shape": [
            f"{name} {tuple(found)}, not {tuple(wanted)}" for name, found, wanted in sorted(info["mismatched_keys"])
        ],
    }
    problems = [
        f"{len(names)} {problem} ({', '.join(names[:NAMED_WEIGHTS])}{', ...' if len(names) > NAMED_WEIGHTS else ''})"
        for problem, names in weights.items()
        if names
    ]
    if problems:
        raise ModelError(f"{folder}: weights do not fit config.json: {'; '.join(problems)}; {REMEDY}")


def load_config(path: str | Path) -> Any:
    """The configuration of the model in folder `path`. Raises `ModelError` if there is none."""
    folder = _folder(path)
    try:
        return AutoConfig.from_pretrained(folder)
    except (ValueError, OSError, KeyError) as error:
        raise ModelError(f"{folder}: no usable configuration: {error}") from error


def load_tokenizer(path: str | Path) -> Any:
    """The tokenizer in folder `path`. Raises `ModelError` if there is none."""
    folder = _folder(path)
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (ValueError, OSError, KeyError) as error:
        raise ModelError(f"{folder}: no usable tokenizer: {error}") from error


def _folder(path: str | Path) -> Path:
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no model there (no config.json); make it with the workflow's `models` target")
    return folder
