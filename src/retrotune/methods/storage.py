"""Saving and loading what a method has trained.

A folder is in peft's layout (`adapter_config.json`, `adapter_model.safetensors`), or for full fine-tuning in that of
transformers, plus `retrotune.json`: the method and what the base model was, so that weights trained for one model are
never put into another. It is written whole or not at all.
"""

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel

from retrotune.errors import DataError, MethodError
from retrotune.files import read_json, write_json, write_text
from retrotune.methods.adapter import ADAPTER
from retrotune.methods.full import load_full, save_full
from retrotune.methods.ptuning import PTUNING

MANIFEST = "retrotune.json"
WEIGHTS = "adapter_model.safetensors"
_KINDS = {"LORA": "lora", ADAPTER: "adapter", PTUNING: "ptuning"}
_TRAINED_PARTS = ("lora_", "bottleneck_", "ptuning_")
_SAMPLES = 16
_README = """Weights trained by the method `{kind}`. Load them with

    from retrotune.methods import load_trained

    model = load_trained(base_model, "this folder")

or, after `import retrotune.methods`, with `peft.PeftModel.from_pretrained` (full fine-tuning: with transformers).
"""


def fingerprint(model: nn.Module, weights: bool = True) -> dict[str, Any]:
    """What identifies a base model, whether or not a method is attached to it.

    Its type, width, layers and vocabulary and, with `weights`, a sha256 over the names, shapes and some evenly spaced
    values of all its weights, rounded to bfloat16: the same whether it was loaded in float32 or in bfloat16.
    """
    base: PreTrainedModel = model.get_base_model() if isinstance(model, PeftModel) else model
    config = base.config.get_text_config()
    shape = {
        key: getattr(config, key, None) for key in ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")
    }
    if not weights:
        return shape
    digest = hashlib.sha256()
    samples = []
    for name, parameter in base.named_parameters():
        if any(part.startswith(_TRAINED_PARTS) for part in name.split(".")):
            continue
        digest.update(f"{name.replace('.base_layer', '')} {list(parameter.shape)}\n".encode())
        values = parameter.detach().reshape(-1)
        samples.append(values[:: max(1, values.numel() // _SAMPLES)].to(torch.bfloat16))
    digest.update(torch.cat(samples).cpu().view(torch.uint8).numpy().tobytes())
    return {**shape, "weights": digest.hexdigest()[:16]}


def _kind(model: nn.Module) -> str:
    if isinstance(model, PeftModel):
        kind = _KINDS.get(model.active_peft_config.peft_type)
        if kind is None:
            raise MethodError(
                f"cannot save a model with {model.active_peft_config.peft_type}: no method of this package"
            )
        return kind
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise MethodError("nothing to save: no weight of the model is trained (zeroshot keeps the base model)")
    return "full"


def save_trained(
    model: nn.Module,
    folder: str | Path,
    weights: dict[str, torch.Tensor] | None = None,
    base_model: dict[str, Any] | None = None,
) -> None:
    """Write the trained weights of `model`, and nothing else, to `folder`, replacing what was there.

    Of a model whose weights are spread over several processes they are given whole as `weights`, by name, and the
    fingerprint as `base_model`, made before the weights were spread.

    Raises `MethodError` if the model has no trained weights.
    """
    folder, kind = Path(folder), _kind(model)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
    try:
        if isinstance(model, PeftModel):
            # Without a look at the hub for changed embeddings, which no method here changes.
            given = {} if weights is None else {"state_dict": weights}
            adapters = [model.active_adapter]
            model.save_pretrained(temporary, save_embedding_layers=False, selected_adapters=adapters, **given)
        else:
            save_full(model, temporary, weights)
        write_text(temporary / "README.md", _README.format(kind=kind))
        write_json(
            temporary / MANIFEST,
            {"method": kind, "base_model": base_model or fingerprint(model, weights=kind != "full")},
        )
        temporary.chmod(0o755)
        for file in temporary.iterdir():
            file.chmod(0o644)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_trained(base_model: nn.Module, folder: str | Path) -> nn.Module:
    """Put the weights of `folder` into `base_model` and return the model, frozen and in evaluation mode.

    For full fine-tuning a new model is returned. Raises `MethodError` if the folder is damaged or was made for another
    base model; the message names both.
    """
    folder = Path(folder)
    try:
        manifest = read_json(folder / MANIFEST)
        kind, wanted = manifest["method"], manifest["base_model"]
    except (DataError, KeyError, TypeError) as error:
        raise MethodError(f"{folder}: no trained weights ({error}); run the cell again") from error
    found = fingerprint(base_model, weights="weights" in wanted)
    if found != wanted:
        raise MethodError(
            f"{folder}: trained for another model: {_describe(wanted)}, but this one is {_describe(found)}"
        )
    if kind == "full":
        return load_full(base_model, folder)
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as weights:
            saved = set(weights.keys())
        device = str(next(base_model.parameters()).device)
        model = PeftModel.from_pretrained(base_model, folder, torch_device=device)
    except (OSError, SafetensorError, RuntimeError, KeyError, ValueError) as error:
        raise MethodError(f"{folder}: cannot be loaded ({error}); run the cell again") from error
    needed = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    if saved != needed:
        odd = sorted(saved ^ needed)
        raise MethodError(f"{folder}: holds other weights than its method needs, first of {len(odd)}: {odd[0]}")
    return model


def _describe(identity: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in identity.items())
