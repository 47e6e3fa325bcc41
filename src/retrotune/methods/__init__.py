"""Methods: what is trained on top of a base model, one file each. Importing this package makes peft know them.

attach(model, method)            a model to train (zeroshot: the frozen base model)
save_trained(model, folder)      its trained weights on disk
load_trained(base, folder)       and back, refused for another base model
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from retrotune.config import MethodEntry, PtuningMethod
from retrotune.errors import MethodError
from retrotune.methods.adapter import attach_adapter
from retrotune.methods.full import attach_full
from retrotune.methods.lora import attach_lora
from retrotune.methods.ptuning import attach_ptuning
from retrotune.methods.storage import fingerprint, load_trained, save_trained
from retrotune.methods.zeroshot import attach_zeroshot

__all__ = ["attach", "count_parameters", "fingerprint", "load_trained", "num_virtual_tokens", "save_trained"]

_ATTACH: dict[str, Callable[[nn.Module, Any], nn.Module]] = {
    "zeroshot": attach_zeroshot,
    "lora": attach_lora,
    "ptuning": attach_ptuning,
    "adapter": attach_adapter,
    "full": attach_full,
}


def attach(model: nn.Module, method: MethodEntry) -> nn.Module:
    """Make `model` ready to train as `method` says; the base model is changed in place, and frozen but for `full`.

    New weights are drawn from torch's global generator and are in float32 even where the base model is in bfloat16, as
    peft does. Raises `MethodError` for an unknown method or a model that the method does not fit.
    """
    if method.kind not in _ATTACH:
        raise MethodError(f"unknown method kind {method.kind!r}; known: {', '.join(_ATTACH)}")
    return _ATTACH[method.kind](model, method)


def num_virtual_tokens(method: MethodEntry) -> int:
    """Placeholder tokens that each row of a batch must carry for `method`."""
    return method.num_virtual_tokens if isinstance(method, PtuningMethod) else 0


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(trained, all) weights of `model`; shared ones count once, the prompt encoder of P-tuning counts as a whole."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)
