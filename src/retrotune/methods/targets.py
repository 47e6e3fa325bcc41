"""Which modules of a decoder the methods change: the self-attention and the MLP of every layer, or those that a study
names.

The known names cover this package's own models (decoder and neighbor encoder alike) and the decoders of the model hub.
The cross-attention, to neighbors or to chunks, is no target: the authors leave it as it is.
"""

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from retrotune.errors import MethodError
from retrotune.methods.base import TargetedMethod
from retrotune.runtime.log import logger

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

_LAYER = r".*\.\d+\."
SELF_ATTENTION = _LAYER + r"(?:self_attention|self_attn|attention|attn)"
"""Full name of a layer's self-attention, as a regular expression."""
MLP = _LAYER + r"(?:mlp|feed_forward)"
"""Full name of a layer's MLP, as a regular expression."""
PROJECTIONS = SELF_ATTENTION + r"(?:\.attention)?\."
"""How full names of a self-attention's projections begin, as a regular expression."""
_FUSED = "query_key_value|qkv_proj|c_attn|Wqkv"
FUSED = f"{PROJECTIONS}(?:{_FUSED})"
"""Full name of one projection for queries, keys and values, as a regular expression."""
QUERY_KEY_VALUE = f"{PROJECTIONS}(?:[qkv]_proj|{_FUSED})"
"""Full names of a self-attention's query, key and value projections, or of its fused one."""
NEIGHBOR_ENCODER = "neighbor_encoder"
"""The part of a module's name that says that it belongs to RETRO's neighbor encoder."""
_SHOWN = 20
"""So many names of modules stand in a message."""


class Part(NamedTuple):
    """What each layer must have for a method's usual targets; `pattern` is of full names, a regular expression."""

    what: str
    pattern: str


QUERY, KEY, VALUE = (
    Part(f"{what} projection", f"{PROJECTIONS}{letter}_proj|{FUSED}")
    for what, letter in (("query", "q"), ("key", "k"), ("value", "v"))
)


def in_encoder(name: str) -> bool:
    """Whether a module's full name lies in the neighbor encoder."""
    return NEIGHBOR_ENCODER in name.split(".")


def check_layers(model: nn.Module, parts: Iterable[Part], method: str, linear: bool = True) -> None:
    """Raise `MethodError`, which names the layers and what they hold, unless each layer of `model` has all `parts`.

    `linear`: whether the method changes linear modules, and not what consists of them.
    """
    names = [name for name, _ in model.named_modules()]
    found = {part.what: [name for name in names if re.fullmatch(part.pattern, name)] for part in parts}
    layers = _layers(model, [name for matches in found.values() for name in matches])
    lacking = {what: list(_without(layers, matches)) for what, matches in found.items()}
    lacking = {what: where for what, where in lacking.items() if where or not found[what]}
    if not lacking:
        return
    left = [layer for layer in layers if any(layer in where for where in lacking.values())]
    held = list(dict.fromkeys(name for layer in left for name in _held(layers[layer], linear)))
    ends = sorted({name.rpartition(".")[2] for matches in found.values() for name in matches})
    others = f"; [{', '.join(ends)}] alone leaves these layers as they are" if 0 < len(left) < len(layers) else ""
    raise MethodError(
        f"{method}: no {', no '.join(lacking)} found in {type(model).__name__}, layers {_ranges(left) or '(none)'} "
        f"({len(left)} of {len(layers)}), which hold {_listed(held) or 'nothing'}: choose what is trained by "
        f"methods.NAME.targets, a list of such names or of their ends{others}"
    )


def chosen(model: nn.Module, targets: Iterable[str], method: str, linear: bool = True) -> str:
    """Regular expression of the full names that are one of `targets` or end in `.` and one, as peft reads a list.

    Raises `MethodError` for one that no module of `model` is called and, where only `linear` modules can be changed,
    for one of a module that consists of others.
    """
    names = [name for name, _ in model.named_modules() if name]
    for target in targets:
        found = [name for name in names if name == target or name.endswith(f".{target}")]
        if not found:
            length = target.count(".") + 1
            ends = dict.fromkeys(".".join(name.split(".")[-length:]) for name in names)
            near = get_close_matches(target, ends, cutoff=0.3)
            raise MethodError(
                f"{method}: methods.NAME.targets names {target!r}, but no module of {type(model).__name__} is called "
                f"so; nearest: {', '.join(near) or _listed(list(ends))}"
            )
        whole = next((name for name in found if any(model.get_submodule(name).children())), None) if linear else None
        if whole is not None:
            held = _listed(list(_held(model.get_submodule(whole), linear)))
            raise MethodError(
                f"{method}: methods.NAME.targets names {target!r}, but {whole} of {type(model).__name__} is no linear "
                f"module; name some of those that it holds: {held or 'none'}"
            )
    return rf"(?:.*\.)?(?:{'|'.join(map(re.escape, targets))})"


def put(model: nn.Module, config: "PeftConfig", entry: TargetedMethod) -> "PeftModel":
    """Wrap `model` as `config` says; where a study chose the targets, the log counts them and names what is left out.

    Raises `MethodError` for targets that the method cannot change.
    """
    from peft import get_peft_model

    try:
        wrapped = get_peft_model(model, config)
    except ValueError as error:
        raise MethodError(f"{entry.kind}: {error}; correct methods.NAME.targets") from error
    if entry.chosen:
        names: list[str] = wrapped.targeted_module_names
        left = list(_without(_layers(model, names), names))
        logger.info(
            "%s: modules of %s that are changed: %d; layers left out: %s",
            entry.kind,
            type(model).__name__,
            len(names),
            _ranges(left) or "none",
        )
    return wrapped


def _layers(model: nn.Module, matches: Iterable[str]) -> dict[str, nn.Module]:
    """Layers by name: those of the longest list of modules that lies in no other, and of others with `matches`."""
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    outer = {name: module for name, module in lists.items() if not any(name.startswith(f"{o}.") for o in lists)}
    longest = max(outer, key=lambda name: len(outer[name]), default="")
    used = [name for name in outer if name == longest or any(match.startswith(f"{name}.") for match in matches)]
    return {f"{name}.{number}": layer for name in used for number, layer in enumerate(outer[name])}


def _without(layers: Iterable[str], names: Iterable[str]) -> Iterator[str]:
    """Layers in which none of the named modules lies."""
    return (layer for layer in layers if not any(f"{name}.".startswith(f"{layer}.") for name in names))


def _held(layer: nn.Module, linear: bool) -> Iterator[str]:
    """Names, within a layer, of its linear modules, or of its parts that consist of some."""
    from transformers.pytorch_utils import Conv1D

    for name, module in layer.named_modules():
        if name and isinstance(module, nn.Linear | Conv1D):
            yield re.sub(r"\.\d+\.", ".*.", name) if linear else name.partition(".")[0]


def _ranges(layers: Iterable[str]) -> str:
    """`a.0, a.1, a.2, a.4` as `a.0-2, a.4`."""
    places = [(name.rpartition(".")[0], int(name.rpartition(".")[2])) for name in layers]
    runs = groupby(enumerate(places), lambda item: (item[1][0], item[1][1] - item[0]))
    ends = [(run[0][1], run[-1][1]) for run in (list(run) for _, run in runs)]
    return ", ".join(f"{name}.{first}" + (f"-{last}" if last > first else "") for (name, first), (_, last) in ends)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
