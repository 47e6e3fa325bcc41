"""Whole models on disk, of methods that train the base model's own weights."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from retrotune.errors import MethodError


def save_whole(model: PreTrainedModel, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write all weights in transformers layout (config.json and safetensors), so that any tool can load the model.

    They are the model's own, or those given.
    """
    model.save_pretrained(folder, state_dict=weights)


def load_whole(base_model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Load the model of `folder` with the class, number type and devices of `base_model`, which stays as it is."""
    device_map = getattr(base_model, "hf_device_map", None)
    try:
        model, info = type(base_model).from_pretrained(
            folder, dtype=base_model.dtype, output_loading_info=True, device_map=device_map
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise MethodError(f"{folder}: the fine-tuned model cannot be loaded ({error}); run the cell again") from error
    if lost := sorted(info["missing_keys"]):
        raise MethodError(
            f"{folder}: the fine-tuned model lacks {len(lost)} weights, first {lost[0]}; run the cell again"
        )
    return (model if device_map else model.to(base_model.device)).requires_grad_(False).eval()
