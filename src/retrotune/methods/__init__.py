"""Methods: what is trained on top of a base model, one file with one record each. Importing this imports no torch.

A new method is a file beside these, and a line in `_RECORDS`; all else follows from its record (`base.Method`).

attach(model, entry)             a model to train (zeroshot: the frozen base model)
save_trained(model, folder)      its trained weights on disk
load_trained(base, folder)       and back, refused for another base model
"""

import operator
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import Field

from retrotune.errors import MethodError
from retrotune.methods import adapter, full, ia3, lora, ptuning, zeroshot
from retrotune.methods.base import Finetuning, FinetuningOverride, Method, MethodSchema, Shape, TrainedMethod

if TYPE_CHECKING:
    from retrotune.methods.attaching import attach, count_parameters
    from retrotune.methods.storage import base_identity, fingerprint, load_trained, save_trained

__all__ = [
    "METHODS",
    "Finetuning",
    "FinetuningOverride",
    "Method",
    "MethodEntry",
    "MethodSchema",
    "Shape",
    "TrainedMethod",
    "attach",
    "base_identity",
    "count_parameters",
    "fingerprint",
    "load_trained",
    "method_of",
    "num_virtual_tokens",
    "save_trained",
]

_RECORDS: tuple[Method, ...] = (
    zeroshot.METHOD,
    lora.METHOD,
    ptuning.METHOD,
    adapter.METHOD,
    ia3.METHOD,
    full.METHOD,
)

METHODS: dict[str, Method] = {record.kind: record for record in _RECORDS}
"""Records by kind."""
if len(METHODS) < len(_RECORDS):
    raise MethodError(f"two methods share a kind: {', '.join(record.kind for record in _RECORDS)}; rename one")

if TYPE_CHECKING:
    MethodEntry: TypeAlias = MethodSchema
else:
    MethodEntry = Annotated[reduce(operator.or_, (record.schema for record in _RECORDS)), Field(discriminator="kind")]


def method_of(entry: MethodSchema) -> Method:
    """The record of an entry's method; `MethodError` for a kind that is not known."""
    if entry.kind not in METHODS:
        raise MethodError(f"unknown method kind {entry.kind!r}; known: {', '.join(METHODS)}")
    return METHODS[entry.kind]


def num_virtual_tokens(entry: MethodSchema) -> int:
    """Placeholder tokens that each row of a batch must carry for a method."""
    return method_of(entry).num_virtual_tokens(entry)


def __getattr__(name: str) -> Any:
    """What needs torch and peft, imported when it is first asked for."""
    if name in ("attach", "count_parameters"):
        from retrotune.methods import attaching

        return getattr(attaching, name)
    if name in ("base_identity", "fingerprint", "load_trained", "save_trained"):
        from retrotune.methods import storage

        return getattr(storage, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
