"""Bottleneck adapters as a peft method: its configuration, its layer and its wrapper of a base model.

The linear maps have no bias; down starts Xavier-normal, up at zero, so that a fresh adapter changes nothing.

`get_peft_model`, `save_pretrained`, `PeftModel.from_pretrained`, `disable_adapter` and several named adapters work as
for peft's own methods once this module has been imported. Several active adapters add up. Merging is impossible, as an
adapter is not linear.
"""

from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from retrotune.errors import MethodError
from retrotune.methods import targets
from retrotune.methods.names import ADAPTER_PREFIX, ADAPTER_TYPE
from retrotune.methods.peft_extension import AddedLayer, AddedModel, register_method


@dataclass
class AdapterConfig(PeftConfig):
    """Configuration of bottleneck adapters."""

    bottleneck_dim: int = field(default=32, metadata={"help": "hidden width in the decoder"})
    encoder_bottleneck_dim: int | None = field(
        default=None, metadata={"help": "hidden width in the neighbor encoder; None: as in the decoder"}
    )
    dropout: float = field(default=0.0, metadata={"help": "dropout on the adapter's output"})
    target_modules: str | list[str] | None = field(
        default=f"{targets.SELF_ATTENTION}|{targets.MLP}",
        metadata={"help": "modules whose output is adapted: full names as a regular expression, or their ends"},
    )

    def __post_init__(self) -> None:
        """Name the method for peft."""
        super().__post_init__()
        self.peft_type = ADAPTER_TYPE


def check_adaptable(model: Any, config: AdapterConfig) -> None:
    """Raise `MethodError`, by name, for a target of `config` whose output in `model` an adapter cannot change."""
    names = [name for name, _ in model.named_modules() if check_target_module_exists(config, name)]
    for name in names:
        if problem := _problem(name, model.get_submodule(name), names, model.config.get_text_config().hidden_size):
            raise MethodError(f"adapter: {name} of {type(model).__name__} {problem}")


def _problem(name: str, module: nn.Module, names: list[str], hidden_size: int) -> str | None:
    outer = next((other for other in names if name.startswith(f"{other}.")), None)
    if outer is not None:
        return f"lies in {outer}, which is adapted as well: name one of them in methods.NAME.targets"
    if type(module).forward is nn.Module.forward or next(module.parameters(), None) is None:
        return "has no output or no weights of its own: name other modules in methods.NAME.targets"
    if "residual" in signature(module.forward).parameters:
        return "adds the residual itself: nothing can be put before it"
    width = module.out_features if isinstance(module, nn.Linear) else module.nf if isinstance(module, Conv1D) else None
    if width not in (None, hidden_size):
        return f"has an output of width {width}, where adapters take {hidden_size}: name other modules"
    return None


class AdapterLayer(AddedLayer):
    """A module whose output, or the first item of it, is width D, followed by bottleneck adapters, one per name."""

    adapter_layer_names = ("bottleneck_norm", "bottleneck_down", "bottleneck_up")
    other_param_names = ("bottleneck_dropout",)

    def __init__(self, base_layer: nn.Module, hidden_size: int) -> None:
        super().__init__(base_layer)
        self.hidden_size = hidden_size
        self.bottleneck_norm = nn.ModuleDict()
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.bottleneck_dropout = nn.ModuleDict()

    def update_layer(self, adapter_name: str, bottleneck_dim: int, dropout: float, inference_mode: bool) -> None:
        """Add a fresh adapter, on the device and in the number type of the wrapped module's weights."""
        norm = nn.LayerNorm(self.hidden_size)
        down = nn.Linear(self.hidden_size, bottleneck_dim, bias=False)
        up = nn.Linear(bottleneck_dim, self.hidden_size, bias=False)
        nn.init.xavier_normal_(down.weight)
        nn.init.zeros_(up.weight)
        like = next(self.get_base_layer().parameters())
        new = {"norm": norm, "down": down, "up": up, "dropout": nn.Dropout(dropout)}
        for part, module in new.items():
            # Still without storage where peft loads with low_cpu_mem_usage; the weights come later.
            empty = any(parameter.is_meta for parameter in module.parameters())
            getattr(self, f"bottleneck_{part}")[adapter_name] = module if empty else module.to(like)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The wrapped module's output, [B, T, D] or a tuple that begins with it, plus the active adapters' updates."""
        output = self.base_layer(*args, **kwargs)
        if self.disable_adapters:
            return output
        if isinstance(output, tuple):
            return (self._adapt(output[0]), *output[1:])
        return self._adapt(output)

    def _adapt(self, branch_BTD: torch.Tensor) -> torch.Tensor:
        adapted_BTD = branch_BTD
        for name in self.active_adapters:
            if name not in self.bottleneck_down:
                continue
            norm, down, up = self.bottleneck_norm[name], self.bottleneck_down[name], self.bottleneck_up[name]
            update_BTD = up(functional.silu(down(norm(self._cast_input_dtype(branch_BTD, norm.weight.dtype)))))
            adapted_BTD = adapted_BTD + self.bottleneck_dropout[name](update_BTD).to(branch_BTD.dtype)
        return adapted_BTD


class AdapterModel(AddedModel):
    """peft's wrapper of a base model with bottleneck adapters."""

    prefix = ADAPTER_PREFIX
    tuner_layer_cls = AdapterLayer

    def _create_and_replace(
        self,
        peft_config: AdapterConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        layer = target
        if not isinstance(layer, AdapterLayer):
            layer = AdapterLayer(target, self.model.config.get_text_config().hidden_size)
            layer._active_adapter = self.active_adapters
            self._replace_module(parent, target_name, layer, target)
        encoder_dim = peft_config.encoder_bottleneck_dim or peft_config.bottleneck_dim
        width = encoder_dim if targets.in_encoder(current_key) else peft_config.bottleneck_dim
        layer.update_layer(adapter_name, width, peft_config.dropout, peft_config.inference_mode)


register_method(ADAPTER_TYPE, AdapterConfig, AdapterModel)
