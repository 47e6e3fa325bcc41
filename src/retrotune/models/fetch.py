"""Base models that exist already: fetched from the hub, or a local folder used as it is."""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrotune.errors import ModelError
from retrotune.files import read_json, sha256, sha256_text, write_json, write_text
from retrotune.log import logger
from retrotune.stages import FetchParams

PATTERNS = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.txt"]
"""Files of a model folder that are used; pickled weights are not among them."""


def fetch_model(
    out_dir: str | Path,
    hub: str | None = None,
    path: str | Path | None = None,
    params: Mapping[str, Any] | None = None,
) -> None:
    """Make `out_dir` a model folder: downloaded from the hub, or links to the files of the local folder `path`.

    `manifest.json` is written last: source, number of parameters (read from the safetensors headers), and sha256 of
    the list of tensors and of each weights file. Raises `ModelError` if the model cannot be reached or holds no
    safetensors weights.
    """
    out = Path(out_dir)
    if path is not None:
        _link(Path(path), out)
    elif hub is not None:
        _download(hub, out)
    else:
        raise ModelError(f"{out}: a fetched model needs `hub` or `path`")
    write_manifest(out, {"hub": hub, "path": None if path is None else str(path)}, params=params)


def fetch_base_model(params: FetchParams, out_dir: str | Path) -> None:
    """Make `out_dir` the model folder that a study asks for; raises as `fetch_model` does."""
    fetch_model(out_dir, params.hub, params.path, params.recorded())


def write_manifest(folder: str | Path, source: Mapping[str, Any], **more: Any) -> None:
    """Write the `manifest.json` of a whole model folder: where it came from (`source`), what it holds, and `more`."""
    folder = Path(folder)
    tensors = tensor_shapes(folder)
    write_json(
        folder / "manifest.json",
        {
            "source": dict(source),
            "model_type": read_json(folder / "config.json").get("model_type"),
            "num_parameters": sum(math.prod(shape) for shape in tensors.values()),
            "tensors_sha256": sha256_text(repr(sorted(tensors.items()))),
            "weights_sha256": {file.name: sha256(file) for file in sorted(folder.glob("*.safetensors"))},
            **more,
        },
    )
    logger.info("%s: %d tensors", folder, len(tensors))


def tensor_shapes(folder: str | Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors of a model folder, from the safetensors headers alone."""
    from safetensors import SafetensorError, safe_open

    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder}: no *.safetensors file; only safetensors weights are read, save the model as such")
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        try:
            with safe_open(file, framework="numpy") as tensors:
                shapes.update({name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()})  # noqa: SIM118
        except SafetensorError as error:
            raise ModelError(f"{file}: truncated or damaged ({error}); fetch the model again") from error
    return shapes


def _link(source: Path, out: Path) -> None:
    if not (source / "config.json").is_file():
        raise ModelError(f"{source}: no model there (no config.json); put a folder in transformers layout there")
    shutil.rmtree(out, ignore_errors=True)  # another source's files would pass for a part of this model
    out.mkdir(parents=True)
    files = {file.name: file for pattern in PATTERNS for file in source.glob(pattern)}
    for name in sorted(files.keys() - {"manifest.json"}):
        (out / name).symlink_to(files[name].resolve())


def _download(hub: str, out: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    # What an offline machine, a wrong name and a missing licence raise; each message of the hub says which it was.
    owner = out / ".hub"
    if out.exists() and not (owner.is_file() and owner.read_text(encoding="utf-8") == hub):
        shutil.rmtree(out)  # as above; an interrupted download of the same model goes on
    write_text(owner, hub)
    known: tuple[type[Exception], ...] = (HfHubHTTPError, LocalEntryNotFoundError, OSError)
    try:
        options: dict[str, Any] = {"allow_patterns": PATTERNS, "ignore_patterns": ["manifest.json"], "local_dir": out}
        snapshot_download(hub, **options)
    except known as error:
        raise ModelError(
            f"{hub}: cannot be fetched ({error}); on a machine without network set models.NAME.path to a local folder"
        ) from error
