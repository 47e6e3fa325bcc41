"""What the methods that peft does not have share: their place in its closed `PeftType` enum, and their base classes.

`peft.utils.register_peft_method` refuses a method whose name `PeftType` does not list, and an enum has no public way to
grow. Once a name is added, peft treats the method like its own: `get_peft_model`, `save_pretrained`,
`PeftModel.from_pretrained`, several adapters in one model.

peft writes the name into `adapter_config.json` and, when it does not know it, raises a `KeyError` with that name and
nothing else. The names therefore say whose they are: `KeyError: 'ADAPTER__IMPORT_RETROTUNE_METHODS'`. Importing
`retrotune.methods.storage` makes all of them known; `retrotune.methods` alone imports no peft.
"""

from typing import Any

from peft import PeftConfig, PeftType
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import register_peft_method
from torch import nn

from retrotune.errors import MethodError


def extend_peft_type(name: str) -> PeftType:
    """Add `name` to `PeftType`, with itself as its value, and return the member; an existing member is returned as is.

    Raises `MethodError` if the member cannot be found afterwards in each way in which peft looks for it, that is, if
    peft or Python has changed what an enum is made of.
    """
    if name in PeftType.__members__:
        return PeftType[name]
    member = str.__new__(PeftType, name)
    member._name_ = member._value_ = name
    member._sort_order_ = len(PeftType)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    type.__setattr__(PeftType, name, member)
    found = [PeftType(name), PeftType[name], getattr(PeftType, name), list(PeftType)[-1]]
    if any(item is not member for item in found) or hash(member) != hash(name):
        raise MethodError(f"peft.PeftType could not be extended by {name}: peft has changed, see {__name__}")
    return member


def register_method(name: str, config_class: type[PeftConfig], tuner_class: type[BaseTuner]) -> PeftType:
    """Make peft know a method under `name` (upper case); its weights are named after `tuner_class.prefix`."""
    member = extend_peft_type(name)
    register_peft_method(name=name.lower(), config_cls=config_class, model_cls=tuner_class, prefix=tuner_class.prefix)
    return member


_NOT_MERGEABLE = "what this method has trained cannot be merged into the base model's weights; unload() drops it"


class AddedLayer(nn.Module, BaseTunerLayer):
    """A module of the base model with trained parts beside it that cannot be merged into its weights."""

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.merged_adapters: list[str] = []

    def __getattr__(self, name: str) -> Any:
        """Pass on what the wrapped module has: decoders look into their attention and embedding modules."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refused with a `MethodError`."""
        raise MethodError(_NOT_MERGEABLE)

    def unmerge(self) -> None:
        """Nothing to do, as nothing is ever merged."""


class AddedModel(BaseTuner):
    """peft's wrapper of a base model that has such layers; merging is refused with a `MethodError`."""

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        """Exchange a module and its layer, either way. peft's own expects modules with one weight of their own."""
        setattr(parent, child_name, new_module)

    def _check_merge_allowed(self) -> None:
        raise MethodError(_NOT_MERGEABLE)
