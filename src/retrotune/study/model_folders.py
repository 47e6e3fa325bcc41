"""Folders in transformers layout: which of their files are used, what their weights hold, and what they must not bring.

Nothing is loaded here; transformers is not imported.
"""

import os
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from retrotune.entries import Family
from retrotune.errors import DataError, ModelError
from retrotune.runtime.files import read_json, sha256

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""Weights in one file, and the list of the files where there are several. transformers looks for them in this order."""

ADAPTER = "adapter_config.json"
SMALL_FILES = (
    "config.json", "generation_config.json", ADAPTER, "*.safetensors.index.json",
    "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab*.json", "vocab*.txt", "merges.txt",
    "*.model", "*.tiktoken", "tekken.json", "bpe.codes", "emoji.json", "chat_template.*",
)  # fmt: skip
"""Names of configurations, tokenizers and indexes. Anything else of a folder is not used, weights apart."""

CODE = ("*.py",)
"""What joins them where a model's own code may run."""

TOKENIZERS = (
    "tokenizer*.json", "vocab*.json", "vocab*.txt", "merges.txt", "*.model", "*.tiktoken", "tekken.json", "bpe.codes",
)  # fmt: skip
"""Names of a tokenizer's files, of which a folder with a tokenizer has one at least."""

REMEDY = "repair its source; a folder that the workflow made is made again by its `models` target once it is deleted"


def described(folder: str | Path) -> str:
    """A folder as messages name it: with the study's entry and source that its manifest tells."""
    folder = Path(folder)
    try:
        source = read_json(folder / "manifest.json")["source"]
        key, value = next((key, source[key]) for key in ("path", "hub", "checkpoint") if source.get(key))
    except (DataError, OSError, KeyError, TypeError, AttributeError, StopIteration):
        return str(folder)
    return f"{folder} (models.{folder.name}, {key} {value})"


def check_source(folder: str | Path, code: bool = False) -> None:
    """Raise `ModelError` for a folder that holds no model that can be used, as far as names of files and JSON tell.

    `code`: whether the model's own code may run.
    """
    weights_files(check_folder(folder, code))


def check_use(folder: str | Path, family: Family, max_length: int) -> None:
    """Raise `ModelError` for a folder whose model no cell of a study could use, as far as names of files and JSON tell.

    `family`: what the study says that the model is; `max_length`: the longest example.
    """
    folder = Path(folder)
    check_family(folder, family)
    check_window(declared_window(folder), max_length, str(folder))
    if not any(fnmatch(file.name, name) for file in folder.iterdir() for name in TOKENIZERS):
        raise ModelError(f"{folder}: no tokenizer there ({', '.join(TOKENIZERS)}); put the files of the model's there")


def check_family(folder: str | Path, family: Family) -> None:
    """Raise `ModelError` unless the model of a folder is of this family, by its configuration."""
    config = _mapping(Path(folder) / "config.json")
    found = "retro" if config.get("cross_attention_layers") else "gpt"
    if found != family:
        reads = "with" if found == "retro" else "without"
        raise ModelError(
            f"{folder}: a model of type {config.get('model_type')} {reads} cross-attention layers is of family "
            f"{found}, not {family}: correct models.NAME.family, or name another source"
        )


def declared_window(folder: str | Path) -> int | None:
    """Tokens that the model of a folder says that it takes; None: it says no number."""
    config = _mapping(Path(folder) / "config.json")
    found = config.get("max_position_embeddings", config.get("n_positions"))
    return found if isinstance(found, int) and found > 0 else None


def check_window(window: int | None, max_length: int, model: str) -> None:
    """Raise `ModelError` if a study's examples may be longer than `model` takes, which would cut those of it alone."""
    if window is not None and max_length > window:
        raise ModelError(
            f"{model} takes {window} tokens at most, but max_length={max_length}: lower max_length, for all models "
            "alike, or leave this one out"
        )


def small_files(folder: str | Path, code: bool = False) -> list[Path]:
    """The used files of a folder that are no weights; its Python files too if its `code` may run."""
    patterns = (*SMALL_FILES, *CODE) if code else SMALL_FILES
    return [file for file in sorted(Path(folder).iterdir()) if any(fnmatch(file.name, name) for name in patterns)]


def weights_names(folder: str | Path) -> list[str]:
    """Names of the weights files that transformers reads in a folder, whether or not they are there.

    Raises `ModelError` for an index that does not name files beside it.
    """
    folder = Path(folder)
    named = _mapping(folder / "config.json").get("transformers_weights")
    indexed = (folder / INDEX).exists() and not os.path.lexists(folder / SINGLE)
    first = str(named or (INDEX if indexed else SINGLE))
    if not first.endswith(".index.json"):
        return [_beside(first, folder / "config.json")]
    files = _mapping(folder / first).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise ModelError(f"{folder / first}: no `weight_map` that names the files of weights; {REMEDY}")
    return sorted({_beside(name, folder / first) for name in files.values()})


def weights_files(folder: str | Path) -> list[Path]:
    """The weights files that transformers reads in a folder; `ModelError` if one of them is not there."""
    folder = Path(folder)
    names = weights_names(folder)
    if names == [SINGLE] and not os.path.lexists(folder / SINGLE):
        raise ModelError(
            f"{folder}: no {SINGLE} and no {INDEX}: only safetensors weights are read, save the model as such"
        )
    files = [folder / name for name in names]
    check_there(files)
    return files


def used_files(folder: str | Path, code: bool = False) -> list[Path]:
    """All used files of a folder; `ModelError` if it does not say which ones hold its weights."""
    return [*small_files(folder, code), *(Path(folder) / name for name in weights_names(folder))]


def weights_digests(folder: str | Path) -> dict[str, str]:
    """The sha256 of each weights file that is used."""
    return {file.name: sha256(file) for file in weights_files(folder)}


def tensor_shapes(folder: str | Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors of a model folder, from the headers of its weights files alone.

    Raises `ModelError` if a file is damaged or not there.
    """
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for file in weights_files(folder):
        try:
            with safe_open(file, framework="numpy") as tensors:
                shapes.update({name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()})  # noqa: SIM118
        except SafetensorError as error:
            raise ModelError(f"{file}: truncated or damaged ({error}); fetch the model again") from error
    return shapes


def check_folder(folder: str | Path, trust_remote_code: bool = False) -> Path:
    """`folder` as a path, once it is known to be a model folder.

    Raises `ModelError` if it has no configuration, if a file of it is a link to nothing, if it holds an adapter (which
    transformers would put on top of another model), and, unless `trust_remote_code`, if it names code of its own.
    """
    folder = Path(folder)
    if not os.path.lexists(folder / "config.json"):
        raise ModelError(
            f"{folder}: no model there (no config.json): put a folder in transformers layout there; one that the "
            "workflow makes comes with its `models` target"
        )
    check_there(small_files(folder, trust_remote_code))
    if (folder / ADAPTER).exists():
        raise ModelError(f"{folder}: holds an adapter ({ADAPTER}), no model of its own: merge it into its base model")
    for name in ("config.json", "tokenizer_config.json"):
        if not trust_remote_code and (folder / name).exists() and _mapping(folder / name).get("auto_map"):
            raise ModelError(
                f"{folder / name}: names code of its own (auto_map), which is not run: remove the key if transformers "
                "has the same classes, or set models.NAME.trust_remote_code: true once you have read the code"
            )
    return folder


def check_there(files: Iterable[Path]) -> None:
    """Raise `ModelError` for the first path that is no file, saying where it leads if it is a link."""
    for file in files:
        if not file.is_file():
            leads = f"a link to {file.readlink()}, where no file is" if file.is_symlink() else "no such file"
            raise ModelError(f"{file}: {leads}; {REMEDY}")


def broken_link(folder: str | Path, names: Iterable[str] = ("*",)) -> str | None:
    """What is wrong with the first link in a folder that leads nowhere, and the remedy; None if there is no such link.

    Who looks for a file there would take it for absent. `names` are patterns relative to the folder; documentation and
    hidden files do not count.
    """
    files = (file for name in names for file in sorted(Path(folder).glob(name)))
    for file in files:
        if file.is_symlink() and not file.exists() and file.suffix != ".md" and not file.name.startswith("."):
            return f"{file}: a link to {file.readlink()}, where no file is; put the file there, or remove the link"
    return None


def _mapping(file: Path) -> dict[str, Any]:
    try:
        values = read_json(file, allow_nan=True)
    except DataError as error:
        raise ModelError(f"{error}; {REMEDY}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{file}: not an object but {type(values).__name__}; {REMEDY}")
    return values


def _beside(name: object, place: Path) -> str:
    """`name`, which must be a safetensors file in the folder of `place`: one elsewhere would not be fetched with it."""
    if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
        raise ModelError(f"{place}: names {name!r} as weights, which is no safetensors file beside it; {REMEDY}")
    return name
