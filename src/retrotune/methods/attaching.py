"""Putting a method on a base model, and refusing before the first step what could not be saved after the last."""

from collections.abc import Iterator

from peft import PeftModel
from torch import nn

from retrotune.errors import MethodError
from retrotune.methods import METHODS, Method, MethodSchema, method_of
from retrotune.methods.base import parts_begin

_MARK = "_retrotune_method"


def attach(model: nn.Module, entry: MethodSchema) -> nn.Module:
    """Make `model` ready to train as `entry` says; the base model is changed in place, and frozen but for `full`.

    New weights are drawn from torch's global generator and are in float32 even where the base model is in bfloat16, as
    peft does. Raises `MethodError` for an unknown method, a model that the method does not fit, and a method that does
    not do what its record says.
    """
    method = method_of(entry)
    if method.prefix is not None:
        taken = [name for name, _ in model.named_parameters() if parts_begin(name, method.prefix)]
        if taken:
            raise MethodError(
                f"{method.kind}: {taken[0]} of the base model is named like the method's own weights "
                f"({method.prefix}): start from a model without adapters"
            )
    attached = method.attach(model, entry)
    for problem in _problems(attached, method):
        raise MethodError(f"{method.kind}: {problem}")
    mark(attached, method)
    return attached


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(trained, all) weights of `model`; shared ones count once, the prompt encoder of P-tuning counts as a whole."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)


def mark(model: nn.Module, method: Method) -> None:
    """Note on a model which method it was made ready by; a method is not always to be seen by its weights."""
    setattr(model, _MARK, method.kind)


def marked(model: nn.Module) -> Method:
    """The method that a model was made ready by; `MethodError` if `attach` and `load_trained` have not seen it."""
    # Not getattr: a peft model passes on what its base model has.
    kind = vars(model).get(_MARK)
    if kind is None:
        raise MethodError(f"{type(model).__name__} has no method of this package: make it with attach or load_trained")
    return METHODS[kind]


def _problems(model: nn.Module, method: Method) -> Iterator[str]:
    """What contradicts the record, each with its remedy."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if method.saves == "nothing":
        if names:
            yield f"trains {names[0]} but saves nothing; freeze it in attach, or set saves in the method's record"
        return
    if isinstance(model, PeftModel) != (method.saves == "adapter"):
        yield f"attach returned {type(model).__name__}, but the record saves {method.saves!r}; correct one of them"
        return
    if not names:
        yield "trains nothing; unfreeze its weights in attach"
    if not isinstance(model, PeftModel) or method.prefix is None:
        return
    peft_type = model.active_peft_config.peft_type
    if (found := str(getattr(peft_type, "value", peft_type))) != method.peft_type:
        yield f"attach made {found}, but the record's peft_type is {method.peft_type}; correct one of them"
    strange = [name for name in names if not parts_begin(name, method.prefix)]
    if strange:
        yield (
            f"trains {strange[0]}, whose name does not carry the prefix {method.prefix}: the base model's fingerprint "
            "would change with it; freeze it in attach, or correct the prefix in the method's record"
        )
