"""Loading base models and tokenizers from folders in transformers layout."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from retrotune.errors import ModelError
from retrotune.files import read_result, sha256
from retrotune.models.scratch import nearby

NAMED_WEIGHTS = 3
"""So many weights are named where a model folder is not whole; the others are counted."""

REMEDY = "repair its source, or delete the folder and make it again with the workflow's `models` target"


def load_model(
    path: str | Path,
    dtype: torch.dtype | None = None,
    device: str | None = None,
    retrieval_gate: float | None = None,
) -> PreTrainedModel:
    """The causal language model in folder `path`, in evaluation mode; safetensors only.

    `retrieval_gate` (RETRO only) stands in its configuration from then on, in place of the folder's.
    Raises `ModelError` if the folder is missing, holds no model that transformers knows, or if its weights are damaged
    or not exactly those of its configuration: transformers would fill gaps with random numbers. So does a gate for a
    model that reads no neighbors.
    """
    folder = _folder(path)
    try:
        with nearby(folder) as path:
            model, info = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=dtype or torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, by name
            )
        # adapters name their base model: not the copy of it
        model.name_or_path = model.config.name_or_path = str(folder)
    except SafetensorError as error:
        raise ModelError(f"{folder}: weights are truncated or damaged ({error}); {REMEDY}") from error
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        raise ModelError(f"{folder}: cannot be loaded as a causal language model: {error}") from error
    _check_whole(folder, info)
    if retrieval_gate is not None:
        if not reads_neighbors(model.config):
            raise ModelError(
                f"{folder}: retrieval_gate={retrieval_gate:g} was given for a {model.config.model_type} model without "
                "cross-attention layers: leave it out"
            )
        model.config.retrieval_gate = float(retrieval_gate)
    return (model.to(device) if device else model).eval()


def reads_neighbors(config: Any) -> bool:
    """Whether a model with this configuration is a RETRO, and not a GPT of ours or of the hub."""
    return bool(getattr(config, "cross_attention_layers", None))


def input_digests(model_dir: str | Path, examples: str | Path, neighbors: str | Path | None) -> dict[str, str | None]:
    """The sha256 of the files that a cell's stage reads; of the base model its manifest's, None for what is absent."""
    manifest = Path(model_dir) / "manifest.json"
    files = {"examples": examples, "model": manifest if manifest.is_file() else None, "neighbors": neighbors}
    return {name: None if path is None else sha256(path) for name, path in files.items()}


def model_facts(model_dir: str | Path) -> dict[str, Any]:
    """What a base model's manifest says for tables: `num_parameters` and `departures`, where it says so."""
    path = Path(model_dir) / "manifest.json"
    manifest = read_result(path) if path.is_file() else {}
    return {"num_parameters": manifest.get("num_parameters"), "departures": manifest.get("departures", [])}


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
