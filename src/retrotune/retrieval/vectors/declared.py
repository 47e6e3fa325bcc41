"""What a sentence-transformers folder says of itself: followed, so that vectors are the library's own, or refused.

`modules.json` lists what follows the transformer, the pooling module's `config.json` says which token vectors are used,
`sentence_bert_config.json` how texts are tokenized, and `config_sentence_transformers.json` holds prompts and the
similarity. A key of the configuration that is not given is taken from there; one that contradicts is kept, with a
warning. Keys and values that are not known here are refused: what they change would silently be missing.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from retrotune.errors import DataError, RetrievalError
from retrotune.runtime.files import read_json
from retrotune.runtime.log import logger
from retrotune.study.config import RetrieverEntry

Side = Literal["query", "passage"]

FALLBACK: dict[str, Any] = {
    "pooling": "cls",
    "normalize": False,
    "query_prefix": "",
    "passage_prefix": "",
    "title_separator": "blank",
    "max_length": 512,
}
"""What holds where neither the configuration nor the folder says anything."""

PROMPT_NAMES = {"query_prefix": ("query",), "passage_prefix": ("document", "passage", "corpus")}
"""Names of prompts, best first, as sentence-transformers' `encode_query` and `encode_document` look for them."""

MODULES = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
"""Modules that are run here, in their order, and the folders in which sentence-transformers saves them."""

TRANSFORMER_FILES = tuple(
    f"sentence_{name}_config.json" for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta")
)
"""Where sentence-transformers looks for the transformer's settings; the first one counts."""

VERY_LONG = 10**9
"""Tokenizers without a limit of their own have one of 10^30 tokens."""

ANY = None
"""Any value: it is read here, or changes no vector."""

Known = Mapping[str, Collection[Any] | None]
"""Keys of a file with the values that can be followed."""

MODULE_KEYS: Known = {"idx": ANY, "name": ANY, "path": ANY, "type": ANY, "kwargs": ([], None)}
POOLING_KEYS: Known = {
    "word_embedding_dimension": ANY,
    "embedding_dimension": ANY,
    "include_prompt": (True, False),
    "pooling_mode": ANY,
    **{
        f"pooling_mode_{mode}": ANY
        for mode in ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens")
    },
    "pooling_mode_lasttoken": ANY,
}
NORMALIZE_KEYS: Known = {
    "module_input_name": ("sentence_embedding",),
    "module_output_name": ("sentence_embedding", None),
}
TRANSFORMER_KEYS: Known = {
    "max_seq_length": ANY,
    "do_lower_case": (True, False, None),
    "transformer_task": ("feature-extraction",),
    "modality_config": ({"text": {"method": "forward", "method_output_name": "last_hidden_state"}},),
    "module_output_name": ("token_embeddings",),
    "processing_kwargs": ({}, None),
    "unpad_inputs": ANY,
    "query_length": (None,),
    "document_length": (None,),
    "query_expansion": (None,),
    "tokenizer_name_or_path": (None,),
    "backend": ("torch",),
}
MODEL_KEYS: Known = {  # precision is the entry's, and trust is never a folder's to give
    "attn_implementation": ("eager", "sdpa", "flash_attention_2", None),
    "add_pooling_layer": ANY,
    "dtype": ANY,
    "torch_dtype": ANY,
    "low_cpu_mem_usage": ANY,
    "use_safetensors": ANY,
    "trust_remote_code": ANY,
}
TOKENIZER_KEYS: Known = {"model_max_length": ANY, "use_fast": ANY, "trust_remote_code": ANY}
CONFIG_KEYS: Known = {"use_cache": ANY, "trust_remote_code": ANY}
ARGUMENTS: dict[str, Known] = {
    "model_args": MODEL_KEYS,
    "model_kwargs": MODEL_KEYS,
    "tokenizer_args": TOKENIZER_KEYS,
    "processor_kwargs": TOKENIZER_KEYS,
    "config_args": CONFIG_KEYS,
    "config_kwargs": CONFIG_KEYS,
}
"""Keys of the transformer's settings that hold settings themselves."""
SETTINGS_KEYS: Known = {
    "__version__": ANY,
    "model_type": ("SentenceTransformer", None),
    "prompts": ANY,
    "default_prompt_name": ANY,
    "similarity_fn_name": ANY,
    "truncate_dim": (None,),
    "requirements": ({}, None),
}


@dataclass(frozen=True)
class Declared:
    """What a folder declares; None: nothing."""

    pooling: str | None = None
    normalize: bool | None = None
    query_prefix: str | None = None
    passage_prefix: str | None = None
    max_length: int | None = None
    lower_case: bool = False
    """Texts are lower-cased before the tokenizer's own normalization."""
    pools_prefix: bool = True
    """Token vectors of the prefix are part of the mean."""


def read_declared(folder: str | Path, given: Collection[str] = ()) -> Declared:
    """What a model folder declares; of a plain transformers folder at most the length of texts.

    Raises `RetrievalError` with file, key and value for a damaged file, and for all that is not followed here unless
    the key of the configuration that says it is among those `given`.
    """
    folder = Path(folder)
    paths = _modules(folder / "modules.json")
    pooling, include_prompt = _pooling(folder / paths["Pooling"] / "config.json", paths, given)
    if "Normalize" in paths:
        path = folder / paths["Normalize"] / "config.json"
        _only(path, read_values(path) or {}, NORMALIZE_KEYS)
    settings_path = folder / "config_sentence_transformers.json"
    settings = read_values(settings_path) or {}
    _only(settings_path, settings, SETTINGS_KEYS)
    max_length, lower_case = _transformer(folder, given)
    compared = _normalize(settings_path, settings, given)
    return Declared(
        pooling=pooling,
        normalize="Normalize" in paths or compared,
        query_prefix=_prefix(settings_path, settings, "query_prefix", given),
        passage_prefix=_prefix(settings_path, settings, "passage_prefix", given),
        max_length=max_length,
        lower_case=lower_case,
        pools_prefix=include_prompt,
    )


def complete(entry: RetrieverEntry, location: str | Path) -> RetrieverEntry:
    """A dense retriever with all that the configuration leaves open, taken from the folder at `location`.

    Values of the configuration stay, with a warning where the folder contradicts. Raises `RetrievalError` for what
    the folder declares and nobody follows here, and for a name on the hub whose pooling or normalization nobody says:
    what is declared there is known only after a download.
    """
    if not Path(location).is_dir():
        open_keys = [key for key in ("pooling", "normalize") if getattr(entry, key) is None]
        if open_keys:
            raise RetrievalError(
                f"retriever model {str(location)!r} is no folder: give {' and '.join(open_keys)} in the configuration, "
                "or a preset"
            )
        declared = Declared()
    else:
        declared = read_declared(location, [key for key in FALLBACK if getattr(entry, key) is not None])
    values = {}
    for key, fallback in FALLBACK.items():
        given, said = getattr(entry, key), getattr(declared, key, None)
        if given is None:
            values[key] = fallback if said is None else said
        elif said is not None and (given > said if key == "max_length" else given != said):
            logger.warning("%s declares %s: %r, the retriever has %s: %r", location, key, said, key, given)
    completed = entry.model_copy(update=values)
    if not declared.pools_prefix and (completed.query_prefix or completed.passage_prefix):
        raise RetrievalError(
            f"{location}: pooling with include_prompt: false leaves the tokens of prefixes out, which is not done "
            "here; use another model, or set query_prefix and passage_prefix to '' in the retriever's entry"
        )
    return completed


def refuse_other(completed: RetrieverEntry, declared: RetrieverEntry) -> None:
    """Raise if a name on the hub, `completed` before its download, declares what the configuration leaves open."""
    values = {key: getattr(declared, key) for key in FALLBACK if getattr(declared, key) != getattr(completed, key)}
    if values:
        raise RetrievalError(
            f"retriever model {completed.query_model!r} on the hub declares {values}: give them in the retriever's "
            "entry, as vectors are known by it before a download"
        )


def read_values(path: Path, kind: type = dict) -> Any:
    """A JSON file's value, None if there is no file. Raises `RetrievalError` if it is damaged or of another kind."""
    if not path.is_file():
        return None
    try:
        value = read_json(path, allow_nan=True)
    except DataError as error:
        raise RetrievalError(f"{error}; put the file there again or remove it") from error
    if not isinstance(value, kind):
        raise RetrievalError(f"{path}: not a {kind.__name__} but {type(value).__name__}; put the file there again")
    return value


def _refuse(path: Path, key: str, value: Any, instead: str = "") -> None:
    """Raise for a declared value that is not followed; `instead`: what an entry can say in its place."""
    said = json.dumps(value, ensure_ascii=False)[:200]
    remedy = f"{instead} in the retriever's entry" if instead else "take it out of the file if it should not hold"
    raise RetrievalError(
        f"{path}: {key}: {said} is not followed here, and vectors would be others than those of "
        f"sentence-transformers; use another model, or {remedy}"
    )


def _only(path: Path, values: Mapping[str, Any], known: Known, within: str = "", instead: str = "") -> None:
    """Raise unless each key is known, and its value one that can be followed."""
    for key, value in values.items():
        allowed = known.get(key, ())
        if allowed is not ANY and not any(value == other and type(value) is type(other) for other in allowed):
            _refuse(path, within + key, value, instead)


def _modules(path: Path) -> dict[str, str]:
    """Folder of each module by its kind; without `modules.json` the pooling's."""
    modules = read_values(path, list)
    if modules is None:
        return {"Pooling": MODULES["Pooling"]}
    for module in modules:
        if not isinstance(module, dict) or not isinstance(module.get("path", ""), str):
            _refuse(path, "module", module)
        _only(path, module, MODULE_KEYS, "module.")
    types = [str(module.get("type")) for module in modules]
    kinds = [name.rsplit(".", 1)[-1] if name.startswith("sentence_transformers.") else name for name in types]
    if kinds not in (list(MODULES)[:2], list(MODULES)):
        foreign = [kind for kind in kinds if kind not in MODULES] or kinds
        raise RetrievalError(
            f"{path}: modules.json lists {', '.join(foreign)}, which is not run here: only sentence_transformers' "
            f"{', '.join(MODULES)} in this order are; use another model"
        )
    paths = {kind: module.get("path", MODULES[kind]) for kind, module in zip(kinds, modules, strict=True)}
    if paths["Transformer"] not in ("", "."):
        raise RetrievalError(
            f"{path}: path: {paths['Transformer']!r} of the Transformer is not followed here; name the folder "
            f"{path.parent / paths['Transformer']} in the retriever's entry, with pooling and normalize"
        )
    return paths


def _pooling(path: Path, modules: Mapping[str, str], given: Collection[str]) -> tuple[str | None, bool]:
    """(the declared pooling in the words of the configuration, whether prefixes are pooled)."""
    values = read_values(path)
    if values is None:
        if "Transformer" in modules and "pooling" not in given:
            raise RetrievalError(f"{path}: missing, but modules.json names it; put it there, or set pooling")
        return None, True
    if "pooling" not in given:
        _only(path, values, POOLING_KEYS, instead="set pooling")
    short = {"cls_token": "cls", "mean_tokens": "mean"}
    used = values.get("pooling_mode")
    if used is None:
        found = [key.removeprefix("pooling_mode_") for key, on in values.items() if on and "pooling_mode_" in key]
        used = [short.get(name, name) for name in found] or "mean"  # as sentence-transformers' Pooling
    used = "+".join(map(str, used)) if isinstance(used, list) else str(used)
    if used not in ("cls", "mean") and "pooling" not in given:
        raise RetrievalError(
            f"{path}: declares {used} pooling; only cls and mean are known here: use another model, or set pooling in "
            "the retriever's entry"
        )
    return used, values.get("include_prompt") is not False


def _transformer(folder: Path, given: Collection[str]) -> tuple[int | None, bool]:
    """(tokens per text at most, whether texts are lower-cased)."""
    files = [(folder / name, read_values(folder / name)) for name in TRANSFORMER_FILES]
    path, values = next((file for file in files if file[1]), (files[0][0], dict[str, Any]()))
    _only(path, {key: value for key, value in values.items() if key not in ARGUMENTS}, TRANSFORMER_KEYS)
    arguments = {key: values[key] or {} for key in ARGUMENTS if key in values}
    for key, inner in arguments.items():
        if not isinstance(inner, dict):
            _refuse(path, key, inner)
        _only(path, inner, ARGUMENTS[key], f"{key}.")
    tokenizer = folder / "tokenizer_config.json"
    places = [
        *((path, arguments.get(key, {}).get("model_max_length")) for key in ("processor_kwargs", "tokenizer_args")),
        (path, values.get("max_seq_length")),
        (tokenizer, (read_values(tokenizer) or {}).get("model_max_length")),
    ]
    place, length = next(((place, length) for place, length in places if length is not None), (path, None))
    if isinstance(length, int | float) and length > VERY_LONG:
        length = None
    if length is not None and (type(length) is not int or length < 1):
        if "max_length" not in given:
            _refuse(place, "max_seq_length or model_max_length", length, "set max_length")
        length = None
    return length, values.get("do_lower_case") is True


def _normalize(path: Path, settings: Mapping[str, Any], given: Collection[str]) -> bool | None:
    """Whether the declared similarity needs vectors of length 1, as searches are by dot product."""
    similarity = settings.get("similarity_fn_name")
    if similarity not in (None, "cosine", "dot", "dot_product") and "normalize" not in given:
        _refuse(path, "similarity_fn_name", similarity, "set normalize")
    return None if similarity is None else similarity == "cosine"


def _prefix(path: Path, settings: Mapping[str, Any], key: str, given: Collection[str]) -> str | None:
    """The prompt of one side; refused where there are only prompts of which nobody says that they are this side's."""
    prompts: Any = settings.get("prompts") or {}
    default: Any = settings.get("default_prompt_name")
    if not isinstance(prompts, dict) or any(not isinstance(text, str | None) for text in prompts.values()):
        _refuse(path, "prompts", prompts)
    own = [prompts[name] or "" for name in PROMPT_NAMES[key] if name in prompts]
    if own or key in given:
        return own[0] if own else None
    sides = [name for names in PROMPT_NAMES.values() for name in names]
    if any(text and name not in sides for name, text in prompts.items()):
        _refuse(path, "prompts", prompts, f"set {key}")
    if default is not None and prompts.get(default) != "":
        _refuse(path, "default_prompt_name", default, f"set {key}")
    return None
