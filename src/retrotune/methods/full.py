"""Full fine-tuning: all weights are trained, and a whole model is saved."""

from typing import TYPE_CHECKING, Literal

from retrotune.methods.base import Method, TrainedMethod

if TYPE_CHECKING:
    from torch import nn


class FullMethod(TrainedMethod):
    """All weights are trained."""

    kind: Literal["full"]


def attach_full(model: "nn.Module", entry: FullMethod) -> "nn.Module":
    """Unfreeze all of `model` and return it."""
    return model.requires_grad_(True)


METHOD = Method(schema=FullMethod, attach=attach_full, saves="model", float32=True)
