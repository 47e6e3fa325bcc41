"""What a sentence-transformers folder says of itself: pooling, normalization and prompts.

`modules.json` lists what follows the transformer, `1_Pooling/config.json` says which token vectors are used, and
`config_sentence_transformers.json` holds prompts and the similarity. A key of the configuration that is not given is
taken from there; one that contradicts is kept, with a warning.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from retrotune.config import RetrieverEntry
from retrotune.errors import DataError, RetrievalError
from retrotune.files import read_json
from retrotune.log import logger

Side = Literal["query", "passage"]

FALLBACK = {
    "pooling": "cls",
    "normalize": False,
    "query_prefix": "",
    "passage_prefix": "",
    "title_separator": "blank",
}
"""What holds where neither the configuration nor the folder says anything."""

PROMPT_NAMES = {"query_prefix": ("query",), "passage_prefix": ("document", "passage", "corpus")}
"""Names of prompts, best first, as sentence-transformers' `encode_query` and `encode_document` look for them."""

KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True)
class Declared:
    """What a folder declares; None: nothing."""

    pooling: str | None = None
    normalize: bool | None = None
    query_prefix: str | None = None
    passage_prefix: str | None = None


def read_declared(folder: str | Path) -> Declared:
    """What a model folder declares; nothing for a plain transformers folder.

    Raises `RetrievalError` for a damaged file, and for a module after the transformer that is not run here (a
    projection), as the vectors would be others than the folder's.
    """
    folder = Path(folder)
    modules = _read(folder / "modules.json", list)
    kinds = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules or () if isinstance(module, dict)]
    unknown = [kind for kind in kinds if kind not in KNOWN_MODULES]
    if unknown:
        raise RetrievalError(
            f"{folder}: modules.json lists {', '.join(unknown)}, which is not run here: only "
            f"{', '.join(KNOWN_MODULES)} are; use another model"
        )
    pooling = _read(folder / "1_Pooling" / "config.json", dict) or {}
    settings = _read(folder / "config_sentence_transformers.json", dict) or {}
    prompts = settings.get("prompts")
    return Declared(
        pooling=_pooling(pooling),
        normalize=_normalize(kinds, settings.get("similarity_fn_name")),
        **_prefixes(prompts if isinstance(prompts, dict) else {}, settings.get("default_prompt_name")),
    )


def complete(entry: RetrieverEntry, location: str | Path) -> RetrieverEntry:
    """A dense retriever with all that the configuration leaves open, taken from the folder at `location`.

    Values of the configuration stay, with a warning where the folder contradicts. Raises `RetrievalError` for a
    pooling that is not known here, and for a name on the hub whose pooling or normalization nobody says: what is
    declared there is known only after a download.
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
        declared = read_declared(location)
    values = {}
    for key, fallback in FALLBACK.items():
        given, said = getattr(entry, key), getattr(declared, key, None)
        if given is None:
            values[key] = fallback if said is None else said
        elif said is not None and given != said:
            logger.warning("%s declares %s: %r, the retriever has %s: %r", location, key, said, key, given)
    if values.get("pooling", entry.pooling) not in ("cls", "mean"):
        raise RetrievalError(
            f"{location}: declares {values['pooling']} pooling; only cls and mean are known here: use another "
            "model, or set pooling"
        )
    return entry.model_copy(update=values)


def _read(path: Path, kind: type) -> Any:
    """A JSON file's value if it is there and of this kind."""
    if not path.is_file():
        return None
    try:
        value = read_json(path)
    except DataError as error:
        raise RetrievalError(f"{error}; put the file there again or remove it") from error
    if not isinstance(value, kind):
        raise RetrievalError(f"{path}: not a {kind.__name__} but {type(value).__name__}; put the file there again")
    return value


def _pooling(modes: dict[str, Any]) -> str | None:
    """The declared pooling in the words of the configuration; several at once are joined by +."""
    short = {"cls_token": "cls", "mean_tokens": "mean"}
    used = [key.removeprefix("pooling_mode_") for key, value in modes.items() if value is True and "_mode_" in key]
    if not used and isinstance(modes.get("pooling_mode"), str):
        used = [modes["pooling_mode"]]
    return "+".join(short.get(name, name) for name in used) or None


def _normalize(kinds: list[str], similarity: Any) -> bool | None:
    if "Normalize" in kinds or similarity == "cosine":
        return True
    return False if similarity in ("dot", "dot_product") else None


def _prefixes(prompts: dict[str, Any], default: Any) -> dict[str, str | None]:
    found = {}
    for key, names in PROMPT_NAMES.items():
        texts = [prompts.get(name) for name in (*names, default)]
        found[key] = next((text for text in texts if isinstance(text, str)), None)
    return found
