"""Loading base models and tokenizers from folders in transformers layout."""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from retrotune.errors import ModelError, RetrotuneError
from retrotune.models.scratch import nearby
from retrotune.retrieval.vectors.pretrained import longest_text
from retrotune.runtime.devices import torch_devices
from retrotune.runtime.files import read_result, sha256, sha256_text
from retrotune.study.model_folders import REMEDY, check_folder, described, tensor_shapes, weights_files

NAMED_WEIGHTS = 3
"""So many weights are named where a model folder is not whole; the others are counted."""

NAMED_TOKENS = 3
"""So many tokens are named where a tokenizer has ids that the model has no embeddings for."""

WEIGHTS_SHARE = 0.8
"""Share of a GPU that weights may take where a model is spread over several; activations and caches need the rest."""

BUFFERS = re.compile(
    r"(rotary_emb|rotary|attn|attention|self_attn|self_attention)\."
    r"(masked_bias|inv_freq|causal_mask|embed_positions|(cos|sin)_cached)$|(^|\.)(position_ids|(de|en)coder\.version)$"
)
"""Names under which older versions of transformers stored what a model computes by itself."""

CAUSAL_MASK = re.compile(r"(attn|attention|self_attn|self_attention)\.bias$")
"""As before, if it has two dimensions of length 1 and a square; otherwise it may be a bias."""


def load_model(
    path: str | Path,
    dtype: torch.dtype | None = None,
    device: str | None = None,
    retrieval_gate: float | None = None,
    without_weights: bool = False,
    device_map: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """The causal language model in folder `path`, in evaluation mode; safetensors only.

    `without_weights`: its parameters have no storage (`meta`), for a process that gets them from another one.
    `device_map` (see `spread`) puts its parts on several devices, in place of `device`. `retrieval_gate` (RETRO only)
    stands in its configuration from then on, in place of the folder's. Code that comes with a model runs only with
    `trust_remote_code`.
    Raises `ModelError` if the folder is missing, holds no model that transformers knows, or if its weights are damaged
    or not exactly those of its configuration: transformers would fill gaps with random numbers. So does a gate for a
    model that reads no neighbors.
    """
    folder = check_folder(path, trust_remote_code)
    weights_files(folder)
    with _errors_of(folder, "cannot be loaded as a causal language model"):
        if without_weights:
            model = _empty(folder, dtype or torch.float32, trust_remote_code)
            info: dict[str, Any] = {}
        else:
            with nearby(folder) as path:
                model, info = AutoModelForCausalLM.from_pretrained(
                    path,
                    dtype=dtype or torch.float32,
                    use_safetensors=True,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # reported below, by name
                    device_map=None if device_map is None else dict(device_map),
                    trust_remote_code=trust_remote_code,
                )
        # adapters name their base model: not the copy of it
        model.name_or_path = model.config.name_or_path = str(folder)
    if info:
        _check_whole(folder, model, info)
    if retrieval_gate is not None:
        if not reads_neighbors(model.config):
            raise ModelError(
                f"{described(folder)}: retrieval_gate={retrieval_gate:g} was given for a {model.config.model_type} "
                "model without cross-attention layers: leave it out"
            )
        model.config.retrieval_gate = float(retrieval_gate)
    return (model.to(device) if device and device_map is None else model).eval()


def num_parameters(path: str | Path, trust_remote_code: bool = False) -> int:
    """Parameters of the model in folder `path`, each counted once; no weight is read.

    Raises `ModelError` if transformers cannot make a causal language model of its configuration.
    """
    folder = check_folder(path, trust_remote_code)
    with _errors_of(folder, "its configuration makes no causal language model"):
        return sum(parameter.numel() for parameter in _empty(folder, torch.float32, trust_remote_code).parameters())


def _empty(folder: Path, dtype: torch.dtype, trust_remote_code: bool) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    with without_storage():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=dtype, trust_remote_code=trust_remote_code
        )
    model.tie_weights()
    return model


@contextlib.contextmanager
def _errors_of(folder: Path, problem: str) -> Iterator[None]:
    """Turn what transformers raises for the files of `folder` into a `ModelError`: they may make it raise anything."""
    try:
        yield
    except RetrotuneError:
        raise
    except SafetensorError as error:
        raise ModelError(f"{described(folder)}: weights are truncated or damaged ({error}); {REMEDY}") from error
    except Exception as error:
        raise ModelError(f"{described(folder)}: {problem}: {error}") from error


def gpu_map(path: str | Path, dtype: torch.dtype, trust_remote_code: bool = False) -> dict[str, int] | None:
    """Which of several GPUs gets which part of the model in folder `path`; None where one GPU can hold all of it."""
    gpus = range(len(torch_devices()))
    if len(gpus) < 2:
        return None
    model = _empty(check_folder(path, trust_remote_code), dtype, trust_remote_code)
    return spread(model, {gpu: torch.cuda.mem_get_info(gpu)[0] for gpu in gpus}, str(path))


def spread(model: PreTrainedModel, room: Mapping[int, int], name: str) -> dict[str, int] | None:
    """Device of each part of `model`, evenly over devices with `room` bytes each, the rest being for activations.

    No layer is divided. None if `WEIGHTS_SHARE` of the first device's room holds all. Raises `ModelError`, with the
    model's `name`, if all together do not.
    """
    from accelerate import infer_auto_device_map
    from accelerate.utils import compute_module_sizes, get_balanced_memory

    size = compute_module_sizes(model)[""]
    usable = {device: int(WEIGHTS_SHARE * free) for device, free in room.items()}
    if size <= usable[min(usable)]:
        return None
    whole = sorted(model._no_split_modules or ())
    even = get_balanced_memory(model, usable, no_split_module_classes=whole)
    placed: dict[str, Any] = infer_auto_device_map(model, even, no_split_module_classes=whole)
    if not set(placed.values()) <= set(usable):
        raise ModelError(
            f"{name}: {size / 1e9:.1f} GB of weights do not fit into {WEIGHTS_SHARE:.0%} of the {len(usable)} GPUs' "
            f"{sum(room.values()) / 1e9:.1f} GB: ask for more or larger ones in the model's resources"
        )
    return placed


@contextlib.contextmanager
def without_storage(wanted: bool = True) -> Iterator[None]:
    """Models made inside have parameters on `meta`; their buffers, which no checkpoint may hold, are real.

    Weights that are one (`tie_weights`) must be made so again afterwards.
    """
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False) if wanted else contextlib.nullcontext():
        yield


def reads_neighbors(config: Any) -> bool:
    """Whether a model with this configuration is a RETRO, and not a GPT of ours or of the hub."""
    return bool(getattr(config, "cross_attention_layers", None))


def window_of(config: Any) -> int | None:
    """Tokens that a model with this configuration says that it takes; None: it says no number."""
    declared = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return declared if isinstance(declared, int) and declared > 0 else None


def longest_example(path: str | Path, trust_remote_code: bool = False) -> int | None:
    """Tokens that the model in folder `path` takes, by its tables of positions, else as it says; no weight is read."""
    folder = check_folder(path, trust_remote_code)
    with _errors_of(folder, "its configuration makes no causal language model"):
        return longest_text(_empty(folder, torch.float32, trust_remote_code))


def input_digests(model_dir: str | Path, examples: str | Path, neighbors: str | Path | None) -> dict[str, str | None]:
    """The sha256 of the files that a cell's stage reads; of the base model its manifest's, None for what is absent."""
    manifest = Path(model_dir) / "manifest.json"
    files = {"examples": examples, "model": manifest if manifest.is_file() else None, "neighbors": neighbors}
    return {name: None if path is None else sha256(path) for name, path in files.items()}


def model_facts(model_dir: str | Path) -> dict[str, Any]:
    """What a base model's manifest says: `num_parameters`, `departures`, and `params`, what made it, where it says so.

    `fingerprint` is a digest of its weights, the same for the same weights wherever they come from.
    """
    path = Path(model_dir) / "manifest.json"
    manifest = read_result(path) if path.is_file() else {}
    weights = manifest.get("weights_sha256")
    return {
        "num_parameters": manifest.get("num_parameters"),
        "departures": manifest.get("departures", []),
        "params": manifest.get("params"),
        "fingerprint": None if weights is None else sha256_text(json.dumps(sorted(weights.values())))[:16],
        **({"trust_remote_code": True} if manifest.get("trust_remote_code") else {}),
    }


def _check_whole(folder: Path, model: PreTrainedModel, info: Mapping[str, Any]) -> None:
    """Raise `ModelError` unless each weight of the model came from its folder, and each of the folder is in the model.

    Tied weights come with their other, and may be stored twice if they are equal. Buffers may be stored.
    """
    weights = {
        "missing": sorted(info["missing_keys"]),
        "unexpected": _foreign(folder, model, info["unexpected_keys"]),
        "of another shape": [
            f"{name} {tuple(found)}, not {tuple(wanted)}" for name, found, wanted in sorted(info["mismatched_keys"])
        ],
        "not equal to what config.json ties them to": _untied(model),
    }
    problems = [
        f"{len(names)} {problem} ({', '.join(names[:NAMED_WEIGHTS])}{', ...' if len(names) > NAMED_WEIGHTS else ''})"
        for problem, names in weights.items()
        if names
    ]
    if problems:
        raise ModelError(f"{described(folder)}: weights do not fit config.json: {'; '.join(problems)}; {REMEDY}")


def load_config(path: str | Path, trust_remote_code: bool = False) -> Any:
    """The configuration of the model in folder `path`. Raises `ModelError` if there is none."""
    folder = check_folder(path, trust_remote_code)
    with _errors_of(folder, "no usable configuration"):
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)


def _foreign(folder: Path, model: PreTrainedModel, names: Iterable[str]) -> list[str]:
    """Those of the stored `names` that are no buffers, which a model computes by itself."""
    prefix = f"{model.base_model_prefix}."
    buffers = {name.removeprefix(prefix) for name, _ in model.named_buffers()}
    rest = sorted(name for name in names if name.removeprefix(prefix) not in buffers and not BUFFERS.search(name))
    shapes = tensor_shapes(folder) if any(CAUSAL_MASK.search(name) for name in rest) else {}

    def is_mask(name: str) -> bool:
        shape = shapes.get(name, ())
        return bool(CAUSAL_MASK.search(name)) and len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]

    return [name for name in rest if not is_mask(name)]


def _untied(model: PreTrainedModel) -> list[str]:
    """Weights that the configuration makes one with another, but that were stored with other values."""

    def equal(first: torch.Tensor, second: torch.Tensor) -> bool:
        return first is second or torch.equal(first.to(second.device), second)

    tied = model.get_expanded_tied_weights_keys(all_submodels=True)
    return sorted(
        name for name, other in tied.items() if not equal(model.get_parameter(name), model.get_parameter(other))
    )


def load_tokenizer(path: str | Path, trust_remote_code: bool = False) -> Any:
    """The tokenizer in folder `path`, whose model has an embedding for each of its ids.

    Raises `ModelError` if there is none, or if an id has no embedding: it would fail in the batches that hold it.
    """
    folder = check_folder(path, trust_remote_code)
    with _errors_of(folder, "no usable tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        _check_ids(folder, tokenizer, trust_remote_code)
    return tokenizer


def _check_ids(folder: Path, tokenizer: Any, trust_remote_code: bool) -> None:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    rows = getattr(config.get_text_config(decoder=True), "vocab_size", None)
    if not isinstance(rows, int):
        embeddings = _empty(folder, torch.float32, trust_remote_code).get_input_embeddings()
        rows = len(embeddings.weight)
    pieces = tokenizer.get_vocab()
    if len(pieces) <= len(tokenizer.get_added_vocab()):  # some classes start empty where they find no files
        raise ModelError(
            f"{described(folder)}: no usable tokenizer: no pieces beside special tokens; put its files there"
        )
    beyond = sorted((number, token) for token, number in pieces.items() if number >= rows)
    if beyond:
        named = ", ".join(f"{token!r} = {number}" for number, token in beyond[:NAMED_TOKENS])
        more = ", ..." if len(beyond) > NAMED_TOKENS else ""
        raise ModelError(
            f"{described(folder)}: {len(beyond)} ids of the tokenizer have no embedding ({named}{more}): the model has "
            f"{rows} rows, 0 to {rows - 1}; name other tokens in tokenizer_config.json (what ends texts can pad), "
            "or add rows with transformers' resize_token_embeddings"
        )
