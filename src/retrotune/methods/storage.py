"""Saving and loading what a method has trained.

A folder is in peft's layout (`adapter_config.json`, `adapter_model.safetensors`), or for a whole model in that of
transformers, plus `retrotune.json`: the method and what the base model was, so that weights trained for one model are
never put into another. It is written whole or not at all. Importing this module makes peft know all methods.
"""

import hashlib
import importlib
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
from retrotune.methods import METHODS
from retrotune.methods.attaching import mark, marked
from retrotune.methods.base import parts_begin
from retrotune.methods.whole_model import load_whole, save_whole
from retrotune.runtime.files import read_json, write_json, write_text

MANIFEST = "retrotune.json"
WEIGHTS = "adapter_model.safetensors"
_SAMPLES = 16
_README = """Weights trained by the method `{kind}`. Load them with

    from retrotune.methods import load_trained

    model = load_trained(base_model, "this folder")

or, after `import retrotune.methods.storage`, with `peft.PeftModel.from_pretrained` (a whole model: with transformers).
"""

for _extension in sorted({record.extension for record in METHODS.values() if record.extension}):
    importlib.import_module(_extension)


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
    added = _added_parts(model)
    digest = hashlib.sha256()
    samples = []
    for name, parameter in base.named_parameters():
        if parts_begin(name, added):
            continue
        digest.update(f"{name.replace('.base_layer', '')} {list(parameter.shape)}\n".encode())
        values = parameter.detach().reshape(-1)
        samples.append(values[:: max(1, values.numel() // _SAMPLES)].to(torch.bfloat16))
    digest.update(torch.cat(samples).cpu().view(torch.uint8).numpy().tobytes())
    return {**shape, "weights": digest.hexdigest()[:16]}


def base_identity(model: nn.Module) -> dict[str, Any]:
    """The fingerprint of the base model of what `attach` returned; without its weights where these are trained."""
    return fingerprint(model, weights=marked(model).saves == "adapter")


def _added_parts(model: nn.Module) -> tuple[str, ...]:
    """How names of weights begin that are not the base model's: none, or the prefixes of all its adapters' methods.

    Another method's prefix says nothing of this model's weights, so that a new method leaves fingerprints as they are.
    """
    if not isinstance(model, PeftModel):
        return ()
    types = {str(getattr(config.peft_type, "value", config.peft_type)) for config in model.peft_config.values()}
    return tuple(sorted({record.prefix for record in METHODS.values() if record.prefix and record.peft_type in types}))


def save_trained(
    model: nn.Module,
    folder: str | Path,
    weights: dict[str, torch.Tensor] | None = None,
    base_model: dict[str, Any] | None = None,
) -> None:
    """Write the trained weights of `model`, and nothing else, to `folder`, replacing what was there.

    Of a model whose weights are spread over several processes they are given whole as `weights`, by name, and the
    fingerprint as `base_model`, made before the weights were spread.

    Raises `MethodError` if the model's method trains nothing, or if `attach` has not seen the model.
    """
    folder, method = Path(folder), marked(model)
    if method.saves == "nothing":
        raise MethodError(f"nothing to save: {method.kind} keeps the base model")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
    try:
        if isinstance(model, PeftModel):
            # Without a look at the hub for changed embeddings, which no method here changes.
            given = {} if weights is None else {"state_dict": weights}
            adapters = [model.active_adapter]
            model.save_pretrained(temporary, save_embedding_layers=False, selected_adapters=adapters, **given)
        else:
            save_whole(model, temporary, weights)
        write_text(temporary / "README.md", _README.format(kind=method.kind))
        write_json(
            temporary / MANIFEST,
            {"method": method.kind, "base_model": base_model or base_identity(model)},
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

    Of a method that saves whole models a new model is returned. Raises `MethodError` if the folder is damaged, or was
    made by an unknown method or for another base model; the message names both.
    """
    folder = Path(folder)
    try:
        manifest = read_json(folder / MANIFEST)
        kind, wanted = manifest["method"], manifest["base_model"]
    except (DataError, KeyError, TypeError) as error:
        raise MethodError(f"{folder}: no trained weights ({error}); run the cell again") from error
    if kind not in METHODS:
        raise MethodError(f"{folder}: trained by the unknown method {kind!r}; known: {', '.join(METHODS)}")
    method = METHODS[kind]
    found = fingerprint(base_model, weights="weights" in wanted)
    if found != wanted:
        raise MethodError(
            f"{folder}: trained for another model: {_describe(wanted)}, but this one is {_describe(found)}"
        )
    if method.saves == "model":
        model = load_whole(base_model, folder)
        mark(model, method)
        return model
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
    mark(model, method)
    return model


def _describe(identity: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in identity.items())
