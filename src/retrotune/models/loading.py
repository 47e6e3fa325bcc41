"""Loading base models and tokenizers from folders in transformers layout."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from retrotune.errors import ModelError


def load_model(path: str | Path, dtype: torch.dtype | None = None, device: str | None = None) -> PreTrainedModel:
    """The causal language model in folder `path`, in evaluation mode; safetensors only.

    Raises `ModelError` if the folder is missing or holds no model that transformers knows.
    """
    folder = _folder(path)
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or torch.float32, use_safetensors=True)
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        raise ModelError(f"{folder}: cannot be loaded as a causal language model: {error}") from error
    return (model.to(device) if device else model).eval()


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
