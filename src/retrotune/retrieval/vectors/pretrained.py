"""Models and tokenizers of encoders: whole, fitting together, and without running code that lies beside them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrotune.errors import RetrievalError
from retrotune.retrieval.vectors.declared import read_values

CODE_FILES = ("config.json", "tokenizer_config.json")
"""Files whose `auto_map` names classes in Python files of the folder."""

HEADS = {
    *("cls", "lm_head", "classifier", "pre_classifier", "qa_outputs", "score", "head", "decoder", "pooler"),
    *("predictions", "seq_relationship", "sop_classifier", "vocab_transform", "vocab_layer_norm", "vocab_projector"),
    *("generator_predictions", "generator_lm_head", "discriminator_predictions", "mask_predictions", "lm_predictions"),
}
"""First parts of the names of weights that follow the last hidden state in models of transformers for other tasks."""

POSITION_TABLES = ("position_embeddings", "position_embedding", "embed_positions", "wpe")
"""Last parts of the names of modules that hold a vector for each position."""

NAMED_WEIGHTS = 3
"""So many weights or tokens are named in an error; the others are counted."""


def model_folder(name: str, location: str) -> Path:
    """The folder at `location`, or the files of a name on the hub that say how its model is used.

    Raises `RetrievalError` if the hub has no such model or cannot be asked.
    """
    if Path(location).is_dir():
        return Path(location)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(location, allow_patterns=["*.json"]))
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error


def load_pretrained(name: str, location: str, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """(tokenizer, model) of an encoder, from a folder or the hub.

    Weights are those of safetensors files, or tensors of `pytorch_model.bin` read without running code. Raises
    `RetrievalError` if they cannot be read, are not those of the configuration (transformers would fill gaps with
    random numbers), the tokenizer has tokens that the model has no embedding for, or the folder brings code that is
    not trusted.
    """
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoTokenizer

    folder = model_folder(name, location)
    _refuse_code(folder, trust_remote_code)
    if (folder / "adapter_config.json").is_file():
        raise RetrievalError(
            f"retriever model {name!r} is an adapter of another model (adapter_config.json): merge it into that "
            "model's weights, and name the folder with the whole model"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=trust_remote_code)
        model, info = AutoModel.from_pretrained(
            location,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, by name
        )
    except SafetensorError as error:
        raise RetrievalError(
            f"retriever model {name!r}: weights are truncated or damaged ({error}); put its files there again"
        ) from error
    except Exception as error:  # files that others wrote fail in all ways, and trusted code too
        raise _unreadable(name, error) from error
    if getattr(model.config, "is_encoder_decoder", False):
        raise RetrievalError(
            f"retriever model {name!r} is an encoder with a decoder ({model.config.model_type}), which is not run "
            "here: use a model that is an encoder"
        )
    _check_weights(name, model, info)
    _check_tokens(name, tokenizer, model)
    return tokenizer, model


def longest_text(model: Any) -> int | None:
    """Tokens of the longest text that a model of transformers takes; None: any, as its positions are relative.

    A table of positions may have rows that no text gets: RoBERTa and its kin count from behind their padding id, OPT
    and BART from an offset. Where there is no table, the configuration's number holds, if it says one.
    """
    rooms = []
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in POSITION_TABLES and getattr(module, "weight", None) is not None:
            padding = getattr(module, "padding_idx", None)
            unused = getattr(module, "offset", None) or (0 if padding is None else padding + 1)
            rooms.append(len(module.weight) - unused)
    declared = getattr(model.config, "max_position_embeddings", None)
    # DeBERTa's number is then that of its relative positions, beyond which all distances are alike
    relative = not rooms and getattr(model.config, "relative_attention", False)
    if isinstance(declared, int) and declared > 0 and not relative:
        rooms.append(declared)
    return min(rooms, default=None)


def lower_cased(name: str, tokenizer: Any) -> Any:
    """The tokenizer, which from now on lower-cases texts before anything else, as sentence-transformers makes it.

    Raises `RetrievalError` for a tokenizer written in Python.
    """
    if not tokenizer.is_fast:
        raise RetrievalError(
            f"retriever model {name!r}: do_lower_case: true is followed only for tokenizers with a tokenizer.json, "
            f"and this is a {type(tokenizer).__name__}: use another model"
        )
    from tokenizers import normalizers

    own = tokenizer.backend_tokenizer.normalizer
    steps = [normalizers.Lowercase(), *([] if own is None else [own])]
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(steps)
    return tokenizer


def _unreadable(name: str, error: Exception) -> RetrievalError:
    return RetrievalError(
        f"retriever model {name!r} cannot be loaded ({error}); without a connection to the hub, name a local folder"
    )


def _refuse_code(folder: Path, trusted: bool) -> None:
    """Raise if the folder brings code of its own, unless the study trusts it."""
    for path in [folder / name for name in CODE_FILES] * (not trusted):
        if declared := (read_values(path) or {}).get("auto_map"):
            raise RetrievalError(
                f"{path}: auto_map: {declared} names Python code in the model's folder, which is not run: read it, and "
                "set trust_remote_code: true in the retriever's entry, or use another model"
            )


def _check_weights(name: str, model: Any, info: Mapping[str, Any]) -> None:
    """Raise unless all weights that make vectors came from the files, and none of the encoder's own is left over.

    A pooler makes no vector here, and heads of other tasks none.
    """
    own = f"{model.base_model_prefix}."
    weights = {
        "missing": [key for key in sorted(info["missing_keys"]) if not key.startswith("pooler.")],
        "not of its class": [
            key for key in sorted(info["unexpected_keys"]) if key.removeprefix(own).split(".")[0] not in HEADS
        ],
        "of another shape": [
            f"{key} {tuple(found)}, not {tuple(wanted)}" for key, found, wanted in sorted(info["mismatched_keys"])
        ],
    }
    if problems := [f"{len(keys)} {problem} ({_some(keys)})" for problem, keys in weights.items() if keys]:
        raise RetrievalError(
            f"retriever model {name!r}: weights do not fit its config.json and {type(model).__name__}: "
            f"{'; '.join(problems)}; they would be random or unused: put the model's own files there, or use another "
            "model"
        )


def _check_tokens(name: str, tokenizer: Any, model: Any) -> None:
    """Raise if the tokenizer has tokens beyond the rows of the model's embeddings."""
    rows = len(model.get_input_embeddings().weight)
    beyond = sorted((number, token) for token, number in tokenizer.get_vocab().items() if number >= rows)
    if beyond:
        tokens = _some([f"{token!r} = {number}" for number, token in beyond])
        raise RetrievalError(
            f"retriever model {name!r}: its tokenizer has {len(beyond)} tokens beyond the {rows} rows of the model's "
            f"embeddings ({tokens}): put the model's own tokenizer there, or give the model rows for them"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED_WEIGHTS]) + ", ..." * (len(names) > NAMED_WEIGHTS)
