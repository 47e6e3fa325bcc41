"""Zero-shot: the base model as it is."""

from torch import nn

from retrotune.config import ZeroshotMethod


def attach_zeroshot(model: nn.Module, method: ZeroshotMethod) -> nn.Module:
    """Freeze `model` and return it."""
    return model.requires_grad_(False)
