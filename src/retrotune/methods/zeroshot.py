"""Zero-shot: the base model as it is."""

from typing import TYPE_CHECKING, Literal

from retrotune.methods.base import Method, MethodSchema

if TYPE_CHECKING:
    from torch import nn


class ZeroshotMethod(MethodSchema):
    """The base model as it is."""

    kind: Literal["zeroshot"]


def attach_zeroshot(model: "nn.Module", entry: ZeroshotMethod) -> "nn.Module":
    """Freeze `model` and return it."""
    return model.requires_grad_(False)


METHOD = Method(schema=ZeroshotMethod, attach=attach_zeroshot, saves="nothing")
