"""What the base models of a study took to make, as their manifests have it, and the room that they take on disk."""

import contextlib
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from retrotune.errors import DataError
from retrotune.runtime.files import read_json, read_result
from retrotune.runtime.log import logger
from retrotune.study.paths import Paths

Origin = Literal["pretraining", "retrofitting", "elsewhere"]


@dataclass(frozen=True)
class BaseModel:
    """A base model: by what it was made, and what that took; None where its manifest does not say.

    Of a model that came from elsewhere (hub, folder, checkpoint) only the disk is known.
    """

    name: str
    origin: Origin
    seconds: float | None
    num_devices: int | None
    device: str | None
    energy_joules: float | None
    peak_memory_bytes: int | None
    disk_bytes: int


def read_models(paths: Paths, names: Iterable[str]) -> list[BaseModel]:
    """Base models of these names that are there, and those here that they were retrofitted from."""
    found: dict[str, BaseModel] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop(0)
        manifest = Path(paths.model_manifest(name))
        if name in found or not manifest.exists():
            continue
        try:
            said = read_json(manifest)
        except DataError as error:
            logger.warning("the cost of model %s is not known: %s", name, error)
            said = {}
        said = said if isinstance(said, dict) else {}
        found[name] = _base_model(name, said, manifest.parent)
        source = said.get("source")
        if isinstance(source, dict) and isinstance(source.get("retrofit_from"), str):
            waiting.append(source["retrofit_from"])
    return list(found.values())


def load_models(path: str | Path) -> list[BaseModel]:
    """The base models of a study from what `collect_metrics` wrote to `out_json`; none from one of earlier versions."""
    return [BaseModel(**record) for record in read_result(path).get("models", ())]


def disk_bytes(place: str | Path) -> int:
    """Bytes of a file, or of all files below a folder. What a link leads to lies elsewhere, and is not counted."""
    files = [Path(folder, name) for folder, _, names in os.walk(place) for name in names] or [Path(place)]
    total = 0
    for file in files:
        with contextlib.suppress(OSError):  # a job may write there while `retrotune tables` looks
            status = file.lstat()
            total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


def _base_model(name: str, said: Mapping[str, Any], folder: Path) -> BaseModel:
    def number(key: str) -> Any:
        value = said.get(key)
        return value if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None

    source = said.get("source")
    origin: Origin = "elsewhere"
    if source == "pretraining":
        origin = "pretraining"
    elif isinstance(source, dict) and "retrofit_from" in source:
        origin = "retrofitting"
    device = said.get("device")
    return BaseModel(
        name=name,
        origin=origin,
        seconds=number("seconds"),
        num_devices=number("num_devices"),
        device=device if isinstance(device, str) else None,
        energy_joules=number("energy_joules"),
        peak_memory_bytes=number("peak_memory_bytes"),
        disk_bytes=disk_bytes(folder),
    )
