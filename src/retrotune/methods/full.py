"""Full fine-tuning: all weights are trained, and a whole model is saved."""

from pathlib import Path

from torch import nn

from retrotune.config import FullMethod
from retrotune.errors import MethodError


def attach_full(model: nn.Module, method: FullMethod) -> nn.Module:
    """Unfreeze all of `model` and return it."""
    return model.requires_grad_(True)


def save_full(model: nn.Module, folder: Path) -> None:
    """Write all weights in transformers layout (config.json and safetensors), so that any tool can load the model."""
    model.save_pretrained(folder)


def load_full(base_model: nn.Module, folder: Path) -> nn.Module:
    """Load the model of `folder` with the class, number type and device of `base_model`, which stays as it is."""
    try:
        model = type(base_model).from_pretrained(folder, dtype=base_model.dtype)
    except (OSError, ValueError, RuntimeError) as error:
        raise MethodError(f"{folder}: the fine-tuned model cannot be loaded ({error}); run its cell again") from error
    return model.to(base_model.device).requires_grad_(False).eval()
