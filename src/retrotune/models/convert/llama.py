"""Llama and its likes (Llama, SmolLM2, Mistral, Qwen2, Qwen3) as a GPT, from Hugging Face folders and GGUF files."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from retrotune.errors import DataError, ModelError
from retrotune.models.convert.source import LazyTensor, Source
from retrotune.models.retro.configuration import RetroConfig
from retrotune.runtime.files import read_json

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Values of `model_type` that are one architecture: RMSNorm, SwiGLU, rotary positions, grouped-query attention."""

ROPE_TYPES = ("default", "linear", "llama3")
"""Rotary positions whose frequencies depend on nothing but the configuration, and whose length is one."""

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

LAYER = re.compile(r"model\.layers\.(\d+)\.(\w+)\.(.+)")
BLOCKS = {
    "self_attn": "self_attention.",
    "mlp": "mlp.",
    "input_layernorm": "input_norm.",
    "post_attention_layernorm": "mlp_norm.",
}
TIED = "lm_head.weight"
EMBEDDINGS = "model.embed_tokens.weight"


def read_llama(folder: Path) -> Source:
    """A Hugging Face folder with safetensors weights, in one file or several.

    Tensors are read one at a time when they are written. Names that belong to no Llama stay as they are: who compares
    them with our model's names them. Raises `ModelError` for another architecture, for a variant whose logits our
    decoder would not reproduce, and for missing or damaged files.
    """
    folder = Path(folder)
    place = folder / "config.json"
    values = _json(place)
    if not isinstance(values, dict) or values.get("model_type") not in FAMILIES:
        found = values.get("model_type") if isinstance(values, dict) else None
        raise ModelError(f"{place}: model_type={found!r} is not read; known are {', '.join(FAMILIES)}")
    if values.get("quantization_config"):
        raise ModelError(f"{place}: quantized weights (quantization_config) are not read; save the model unquantized")
    with _errors_of(place):
        config = AutoConfig.for_model(**values)
    files, tensors = _safetensors(folder)
    return _source(place, config, tensors, folder, {"layout": "huggingface", "files": files})


def read_gguf(file: Path) -> Source:
    """A GGUF file of one of the families, dequantized by transformers; all of it is in memory, in float32.

    Raises `ModelError` as `read_llama` does, and for scaled rotary positions, which transformers does not read there.
    """
    from gguf import GGUFReader

    file = Path(file)
    if not file.is_file():
        raise ModelError(f"{file}: no such file")
    with _errors_of(file):
        reader = GGUFReader(file)
        scaling = next((field for name, field in reader.fields.items() if name.endswith(".rope.scaling.type")), None)
        scaled = scaling is not None and scaling.contents() != "none"
        if scaled or any(tensor.name == "rope_freqs.weight" for tensor in reader.tensors):
            raise ModelError(
                f"{file}: rotary positions are scaled (rope.scaling or rope_freqs), which is not read from GGUF; "
                "convert the model's safetensors folder"
            )
        options: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
        config = AutoConfig.from_pretrained(file.parent, **options)
        if config.model_type not in FAMILIES:
            raise ModelError(f"{file}: model_type={config.model_type!r} is not read; known are {', '.join(FAMILIES)}")
        model, info = AutoModelForCausalLM.from_pretrained(
            file.parent, dtype=torch.float32, output_loading_info=True, **options
        )
    if absent := sorted(info["missing_keys"]):
        raise ModelError(f"{file}: tensors are missing: {', '.join(absent)}")
    tensors = {
        name: LazyTensor(tuple(tensor.shape), tensor.dtype, tensor.detach) for name, tensor in model.named_parameters()
    }
    origin = {"layout": "gguf", "files": [file.name], "quantized": True}
    return _source(file, model.config, tensors, file, origin)


def _source(
    place: Path, theirs: Any, tensors: Mapping[str, LazyTensor], tokenizer: Path, origin: dict[str, Any]
) -> Source:
    """Our configuration and names for a checkpoint with configuration `theirs`."""
    tied = bool(theirs.tie_word_embeddings)
    if tied and TIED in tensors and not _equal(tensors[TIED], tensors.get(EMBEDDINGS)):
        tied = False  # the two matrices differ, whatever the configuration says; transformers keeps both as well
    dropped = [name for name in tensors if name.endswith(".rotary_emb.inv_freq") or (tied and name == TIED)]
    with _errors_of(place):
        config = retro_config(theirs, place, tie_word_embeddings=tied)
    facts = origin | {"model_type": theirs.model_type}
    if dropped:
        facts["dropped"] = sorted(dropped)
    if config.max_position_embeddings < theirs.max_position_embeddings:
        facts["window"] = (
            f"{config.max_position_embeddings} of {theirs.max_position_embeddings} positions: attention slides beyond"
        )
    kept = {_our_name(name): tensor for name, tensor in tensors.items() if name not in dropped}
    return Source(config, kept, tokenizer, facts)


def retro_config(theirs: Any, place: Path, **changes: Any) -> RetroConfig:
    """The GPT that has the logits of a transformers configuration of one of the families.

    A sliding window bounds the positions: up to its length, attention is the plain one. Raises `ModelError` naming
    `place` for what our decoder has not.
    """
    act = getattr(theirs, "hidden_act", "silu")
    if act not in ("silu", "swish"):
        raise ModelError(f"{place}: hidden_act={act!r} is not read, only silu")
    if getattr(theirs, "mlp_bias", False):
        raise ModelError(f"{place}: mlp_bias=True is not read: our MLP has no biases")
    head_dim = getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads
    family_bias = theirs.model_type != "mistral" and bool(getattr(theirs, "attention_bias", False))
    values: dict[str, Any] = {
        "vocab_size": theirs.vocab_size,
        "hidden_size": theirs.hidden_size,
        "intermediate_size": theirs.intermediate_size,
        "num_hidden_layers": theirs.num_hidden_layers,
        "num_attention_heads": theirs.num_attention_heads,
        "num_key_value_heads": theirs.num_key_value_heads,
        "head_dim": head_dim,
        "max_position_embeddings": min(theirs.max_position_embeddings, _sliding_window(theirs, place)),
        "norm": "rmsnorm",
        "norm_eps": float(theirs.rms_norm_eps),
        "attention_bias": theirs.model_type == "qwen2" or family_bias,
        "attention_output_bias": theirs.model_type != "qwen2" and family_bias,
        "qk_norm": theirs.model_type == "qwen3",
        "initializer_range": theirs.initializer_range,
        "cross_attention_layers": [],
        "rotary_share": 1.0,
        "tie_word_embeddings": theirs.tie_word_embeddings,
        "bos_token_id": theirs.bos_token_id,
        "eos_token_id": theirs.eos_token_id,
        "pad_token_id": _inside(theirs.pad_token_id, theirs.vocab_size),
    }
    return RetroConfig(**(values | _rotary(theirs, head_dim, place) | changes))


def _rotary(theirs: Any, head_dim: int, place: Path) -> dict[str, Any]:
    """The base of rotary positions, and their frequencies where they are not its powers."""
    rope = theirs.rope_parameters or {}
    kind = rope.get("rope_type")
    if kind not in ROPE_TYPES:
        raise ModelError(f"{place}: rope_type={kind!r} is not read; known are {', '.join(ROPE_TYPES)}")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise ModelError(f"{place}: partial_rotary_factor={rope['partial_rotary_factor']} is not read, only 1")
    base = {"rope_theta": float(rope["rope_theta"])}
    if kind == "default":
        return base
    theirs.head_dim = head_dim
    frequencies, _ = ROPE_INIT_FUNCTIONS[kind](theirs)
    return base | {"rotary_frequencies": frequencies.tolist()}


def _sliding_window(theirs: Any, place: Path) -> int:
    """Tokens up to which attention is the plain one."""
    kinds = set(getattr(theirs, "layer_types", None) or ()) if theirs.model_type.startswith("qwen") else set()
    if unknown := kinds - {"full_attention", "sliding_attention"}:
        raise ModelError(f"{place}: layer_types {', '.join(sorted(unknown))} are not read")
    slides = theirs.model_type == "mistral" or "sliding_attention" in kinds
    window = theirs.sliding_window if slides else None
    return theirs.max_position_embeddings if window is None else int(window)


def _inside(token_id: int | None, vocab_size: int) -> int | None:
    """A token's id; old configurations write -1 where they have none."""
    return token_id if token_id is not None and 0 <= token_id < vocab_size else None


def _our_name(name: str) -> str:
    match = LAYER.fullmatch(name)
    if match is None or match[2] not in BLOCKS:
        return name
    return f"model.layers.{match[1]}.{BLOCKS[match[2]]}{match[3]}"


def _equal(one: LazyTensor, other: LazyTensor | None) -> bool:
    return other is not None and one.shape == other.shape and torch.equal(one.read(), other.read())


def _safetensors(folder: Path) -> tuple[list[str], dict[str, LazyTensor]]:
    """(file names, tensors by name) of a folder, from the headers alone."""
    index = folder / "model.safetensors.index.json"
    listed: dict[str, str] = {}
    if index.is_file() and not os.path.lexists(folder / "model.safetensors"):  # as transformers chooses
        content = _json(index)
        listed = content.get("weight_map") if isinstance(content, dict) else None  # type: ignore[assignment]
        if not isinstance(listed, dict) or not listed or not all(isinstance(file, str) for file in listed.values()):
            raise ModelError(f"{index}: no weight_map of tensors to files; fetch the model again")
        names = sorted(set(listed.values()))
        if foreign := [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]:
            raise ModelError(f"{index}: {', '.join(foreign)}: not a safetensors file of this folder")
    else:
        names = ["model.safetensors"]
    if absent := [name for name in names if not (folder / name).is_file()]:
        raise ModelError(
            f"{folder}: {', '.join(absent)} missing; only safetensors weights are read: fetch the model again, or save "
            "it as such"
        )
    tensors: dict[str, LazyTensor] = {}
    for name in names:
        tensors |= _header(folder / name)
    if absent := sorted(listed.keys() - tensors.keys()):
        raise ModelError(f"{index}: in none of its files: {', '.join(absent)}; fetch the model again")
    return names, tensors


def _header(file: Path) -> dict[str, LazyTensor]:
    tensors = {}
    with _errors_of(file), safe_open(file, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118 (not a mapping)
            part = opened.get_slice(name)
            kind = part.get_dtype()
            if kind not in DTYPES:
                raise ModelError(f"{file}: {name} is of type {kind}; known are {', '.join(DTYPES)}")
            tensors[name] = LazyTensor(tuple(part.get_shape()), DTYPES[kind], _reader(file, name))
    return tensors


def _reader(file: Path, name: str) -> Any:
    def read() -> torch.Tensor:
        with _errors_of(file), safe_open(file, framework="pt") as opened:
            return opened.get_tensor(name)

    return read


def _json(path: Path) -> Any:
    try:
        return read_json(path, allow_nan=True)
    except DataError as error:
        raise ModelError(str(error)) from error


@contextlib.contextmanager
def _errors_of(place: Path) -> Iterator[None]:
    """What the libraries raise for a file that is damaged or not what its name says, as a `ModelError` naming it."""
    try:
        yield
    except ModelError:
        raise
    except SafetensorError as error:
        raise ModelError(f"{place}: truncated or damaged ({error}); fetch the model again") from error
    except (
        ValueError, TypeError, KeyError, IndexError, AttributeError, OSError, ZeroDivisionError, StrictDataclassError,
    ) as error:  # fmt: skip
        raise ModelError(f"{place}: damaged or not a known model ({type(error).__name__}: {error})") from error
