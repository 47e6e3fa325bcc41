"""What a study takes from outside of the workflow: model folders, checkpoints, folders of encoders.

Planning compares names, sizes and times of their files; the jobs that read them record digests.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from retrotune.errors import ModelError, RetrotuneError
from retrotune.runtime.files import listing, read_json, sha256_text
from retrotune.study.artifacts import Artifact, Artifacts
from retrotune.study.config import Config, ModelEntry
from retrotune.study.model_folders import check_source, check_use, used_files
from retrotune.study.paths import Paths
from retrotune.study.places import locate_model
from retrotune.study.stages import Files

_PIECES = "tokenizer: "
"""How names of a tokenizer's files begin among those of a checkpoint, which may have files of the same names."""


class Missing(NamedTuple):
    """Something that is not there: where it should lie, what it is, and the entries that name it."""

    path: str
    what: str
    entries: list[str]

    def __str__(self) -> str:
        return f"{', '.join(self.entries)}: {self.path} is not there yet: put {self.what} there"


class Unfit(NamedTuple):
    """A folder that cannot be used as it is: why, and the entry that names it."""

    why: str
    entry: str

    def __str__(self) -> str:
        return f"{self.entry}: {self.why}"


def encoder_files(name: str | None) -> Files:
    """Files of an encoder's local folder. Those of a Python package are its version's, those of the hub are cached."""
    if name is None or name.startswith("package:"):
        return {}
    try:
        return listing(locate_model(name))
    except RetrotuneError:
        return {}


def raw_digest(config: Config, find: Callable[[], Iterable[Path]]) -> str:
    """Digest of names, sizes and times of the raw files that `find` gives; empty where the workflow puts them there."""
    if config.data_root is None:
        return ""
    return sha256_text(json.dumps([[str(file), listing(file)] for file in find()]))[:16]


def model_files(config: Config, model: str) -> Files:
    """Files that a model is fetched or converted from.

    A checkpoint or tokenizer that was deleted after the conversion counts as it was: the model is not to be made again.
    """
    entry = config.models[model]
    if entry.path is not None:
        return _folder_files(entry.path, entry.trust_remote_code)
    if entry.checkpoint is None:
        return {}
    before = _recorded(Paths.of(config).model_manifest(model))
    path = None if entry.checkpoint.package is not None else entry.checkpoint.path
    files: Files = {}
    for prefix, place in (("", path), (_PIECES, entry.checkpoint.tokenizer)):
        if place is not None:
            now = {f"{prefix}{name}": found for name, found in listing(place).items()}
            then = {name: found for name, found in before.items() if name.startswith(_PIECES) == bool(prefix)}
            files |= now or then
    return files


def _folder_files(path: str, code: bool) -> Files:
    """Used files of a model's folder; all of one that cannot be used as it is, which is said where it is fetched."""
    try:
        used = used_files(path, code)
    except (ModelError, OSError):
        return listing(path)
    return {name: found for file in used for name, found in listing(file).items()}


def _recorded(manifest: str) -> Files:
    try:
        found: Files = read_json(manifest)["params"]["files"]
    except (RetrotuneError, KeyError, TypeError):
        return {}
    return found


def missing(config: Config, models: Collection[str], retrievers: Collection[str]) -> list[Missing | Unfit]:
    """What of these entries is not there, or cannot be used as it is as far as names of files and JSON tell.

    A converted checkpoint may be gone, a folder in use may not.
    """
    found: dict[tuple[str, str], list[str]] = {}
    unfit: list[Missing | Unfit] = []
    for name in sorted(models):
        entry = config.models[name]
        manifest = Path(Paths.of(config).model_manifest(name))
        converted = entry.checkpoint is not None and manifest.exists()
        for path, what in () if converted else _places(entry):
            if not Path(path).exists():
                found.setdefault((path, what), []).append(f"models.{name}")
        unfit += _unfit(name, entry, manifest, config.max_length)
    for name in sorted(retrievers):
        for model in {config.retrievers[name].query_model, config.retrievers[name].passage_model} - {None}:
            try:
                locate_model(str(model))
            except RetrotuneError as error:
                if Path(str(model)).expanduser().is_dir():
                    unfit.append(Unfit(str(error), f"retrievers.{name}"))
                else:
                    found.setdefault((str(model), "the encoder's folder"), []).append(f"retrievers.{name}")
    return [*(Missing(path, what, names) for (path, what), names in found.items()), *unfit]


def _unfit(name: str, model: ModelEntry, manifest: Path, max_length: int) -> Iterator[Unfit]:
    """What no cell could use: of a folder, and of what has been fetched from the hub, as a study may ask otherwise.

    That a tokenizer has no token that ends a text is said where it is fetched: only its class knows.
    """
    try:
        if model.path is not None and Path(model.path).exists():
            check_source(model.path, model.trust_remote_code)
            check_use(model.path, model.family, max_length)
        elif model.hub is not None and manifest.exists():
            check_use(manifest.parent, model.family, max_length)
    except (ModelError, OSError) as error:
        key = "hub" if model.path is None else "path"
        yield Unfit(str(error).replace("models.NAME.", f"models.{name}."), f"models.{name}.{key}")


def _places(model: ModelEntry) -> Iterator[tuple[str, str]]:
    if model.path is not None:
        yield model.path, "a model folder in transformers layout"
    if model.checkpoint is not None:
        if model.checkpoint.package is None:
            yield model.checkpoint.path, "the checkpoint to convert"
        if model.checkpoint.tokenizer is not None:
            yield model.checkpoint.tokenizer, "its tokenizer"


def read_by_study(config: Config) -> tuple[set[str], set[str]]:
    """(models, retrievers) whose folders making and answering with the study's models reads."""
    return read_by_jobs(config, Artifacts(config).all())


def read_by_jobs(config: Config, made: Iterable[Artifact]) -> tuple[set[str], set[str]]:
    """(models, retrievers) whose folders the jobs read that make these artifacts."""
    models, retrievers = set[str](), set[str]()
    artifacts = Artifacts(config)
    for artifact in made:
        if artifact.stage in ("fetch_model", "convert_model"):
            models.add(artifact.wildcards["model"])
        elif artifact.stage == "embed_passages":
            retrievers.add(artifact.wildcards["retriever"])
        elif (retrieval := artifacts.retrieval_of(artifact)) is not None:
            retrievers.add(config.searching(str(config.retrievals[retrieval].retriever)))
    return models, retrievers
