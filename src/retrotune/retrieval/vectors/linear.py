"""Faster encoders with the same vectors: linear layers by oneDNN with weights laid out once, and bfloat16.

PyTorch multiplies float32 by MKL, which is slow on processors that are not Intel's, and its bfloat16 layers lay their
weights out anew in each call. The operators that `torch.compile` uses for frozen models do neither; they are taken here
without compiling, since every batch has another shape. Where an operator is missing, a layer stays as it is.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from retrotune.runtime.log import logger

COSINE_TOLERANCE = 1e-3
"""How far from 1 the cosine of a text's bfloat16 and float32 vectors may be."""
MATRIX_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")
"""Processor flags of instructions that multiply bfloat16 matrices: Intel's and AMD's, the last one Arm's."""

Precision = Literal["auto", "float32", "bfloat16"]


def bfloat16_unit(device: Any) -> str | None:
    """What multiplies bfloat16 faster than float32 on a device: a processor flag or a GPU's name; None: nothing."""
    device = torch.device(device)
    if device.type == "cuda":
        index = device.index or 0
        return torch.cuda.get_device_name(index) if torch.cuda.get_device_capability(index) >= (8, 0) else None
    return next((flag for flag in MATRIX_FLAGS if flag in processor_flags()), None) if device.type == "cpu" else None


def processor_flags(cpuinfo: str | Path = "/proc/cpuinfo") -> frozenset[str]:
    """Instruction sets that Linux reports for the first processor; none elsewhere."""
    try:
        lines = Path(cpuinfo).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    named = (line.partition(":")[2] for line in lines if line.lower().startswith(("flags", "features")))
    return frozenset(next(named, "").split())


def prepare(model: nn.Module, precision: Precision, embed: Callable[[nn.Module], torch.Tensor]) -> nn.Module:
    """The model in its precision, its linear layers packed; `model` itself is changed, or replaced by a smaller copy.

    `embed` gives a model's vectors [n, D] of a few texts: `auto` takes bfloat16 if the device multiplies it faster and
    these stay within `COSINE_TOLERANCE`; `bfloat16` is taken as told, with a warning beyond it.
    """
    device = next(model.parameters()).device
    if precision == "float32" or (precision == "auto" and bfloat16_unit(device) is None):
        return pack_linears(model)
    exact = embed(model).float()
    halved = pack_linears(copy.deepcopy(model).to(torch.bfloat16))
    off = 1 - torch.nn.functional.cosine_similarity(exact, embed(halved).float(), dim=-1).min().item()
    if off <= COSINE_TOLERANCE:
        return halved
    logger.warning("bfloat16 moves this encoder's vectors: cosine %.5f with float32's", 1 - off)
    return halved if precision == "bfloat16" else pack_linears(model)


def pack_linears(model: nn.Module) -> nn.Module:
    """Replace a model's linear layers on the CPU, with the exact GELU that follows them in BERT's feed-forward layers.

    Layers stay where their class is not plainly `nn.Linear`, and all of them where PyTorch lacks the operators.
    """
    if not _packable(next(model.parameters())):
        return model
    for module in list(model.modules()):
        fused = _followed_by_gelu(module)
        for name, layer in list(module.named_children()):
            if type(layer) is not nn.Linear:
                continue
            setattr(module, name, PackedLinear(layer, gelu=fused and name == "dense"))
        if fused:
            module.intermediate_act_fn = nn.Identity()
    return model


class PackedLinear(nn.Module):
    """A linear layer for inference, with the exact GELU after it if `gelu`. Packed weights cannot be saved."""

    def __init__(self, layer: nn.Linear, gelu: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
        self._bias = None if layer.bias is None else layer.bias.detach()
        self._attr, self._algorithm = ("gelu", "none") if gelu else ("none", "")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in_features] -> [..., out_features]."""
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._weight, self._bias, self._attr, [], self._algorithm
        )
        return y


def _followed_by_gelu(module: nn.Module) -> bool:
    """Whether a module is `intermediate_act_fn(dense(x))` with the exact GELU, as in BERT and its kin."""
    act = getattr(module, "intermediate_act_fn", None)
    if type(getattr(module, "dense", None)) is not nn.Linear or not isinstance(act, nn.Module):
        return False
    x = torch.linspace(-4, 4, 33)
    try:
        return bool(torch.allclose(act(x), nn.functional.gelu(x), rtol=0, atol=1e-6))
    except (RuntimeError, TypeError):
        return False


def _packable(weight: torch.Tensor) -> bool:
    """Whether the operators are there, and right, for weights of this kind: a small product shows it."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    layer = nn.utils.skip_init(nn.Linear, 32, 16, dtype=weight.dtype)  # random values would disturb a seeded run
    x = torch.linspace(-1, 1, 480).sin().view(3, 5, 32).to(weight.dtype)
    try:
        with torch.inference_mode():
            layer.weight.copy_(torch.linspace(-9, 9, 512).cos().view(16, 32))
            layer.bias.copy_(torch.linspace(-1, 1, 16))
            expected, found = nn.functional.gelu(layer(x).float()), PackedLinear(layer, gelu=True)(x).float()
    except (AttributeError, RuntimeError, TypeError) as error:
        logger.info("linear layers stay PyTorch's: %s", str(error).partition("\n")[0])
        return False
    return bool(torch.allclose(expected, found, atol=1e-5 if weight.dtype == torch.float32 else 2e-2))
