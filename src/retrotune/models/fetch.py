"""Base models that exist already: fetched from the hub, or a local folder used as it is."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from retrotune.entries import Family
from retrotune.errors import ModelError
from retrotune.models.loading import load_tokenizer, longest_example, num_parameters
from retrotune.prompting.assemble import special_ids
from retrotune.runtime.files import read_json, sha256_text, write_json, write_text
from retrotune.runtime.log import logger
from retrotune.study.model_folders import (
    CODE,
    SMALL_FILES,
    check_folder,
    check_source,
    check_use,
    check_window,
    small_files,
    tensor_shapes,
    weights_digests,
    weights_files,
    weights_names,
)
from retrotune.study.stages import FetchParams


def fetch_model(
    out_dir: str | Path,
    hub: str | None = None,
    path: str | Path | None = None,
    trust_remote_code: bool = False,
    params: Mapping[str, Any] | None = None,
    family: Family | None = None,
    max_length: int = 0,
) -> None:
    """Make `out_dir` a model folder: downloaded from the hub, or links to the files of the local folder `path`.

    Of both only the files that are used: configurations, the tokenizer, the safetensors weights that transformers
    reads, and with `trust_remote_code` the model's Python files. `manifest.json` is written last. `family`: what the
    model must be, if given; it must then take examples of `max_length` tokens, and have a tokenizer that cells can use,
    whose lack is a warning otherwise. Raises
    `ModelError` if the model cannot be reached, holds no safetensors weights, or names code that may not run.
    """
    out = Path(out_dir)
    if path is not None:
        _link(Path(path), out, trust_remote_code)
    elif hub is not None:
        _download(hub, out, trust_remote_code)
    else:
        raise ModelError(f"{out}: a fetched model needs `hub` or `path`")
    origin = {"hub": hub, "path": None if path is None else str(path)}
    try:
        if family is not None:
            check_use(out, family, max_length)
            check_window(longest_example(out, trust_remote_code), max_length, str(out))
        special_ids(load_tokenizer(out, trust_remote_code))
    except ModelError as error:
        if family is not None:
            raise
        logger.warning("no cell can use this model as it is: %s", error)
    write_manifest(out, origin, trust_remote_code, trust_remote_code=trust_remote_code, params=params)


def fetch_base_model(params: FetchParams, out_dir: str | Path, name: str, family: Family, max_length: int) -> None:
    """Make `out_dir` the model folder of a study's model `name`: of this family, for examples of `max_length` tokens.

    Raises as `fetch_model` does; messages name the study's entry and its source.
    """
    key, source = ("hub", params.hub) if params.path is None else ("path", params.path)
    with errors_of(name, key, source, out_dir):
        fetch_model(out_dir, params.hub, params.path, params.trust_remote_code, params.recorded(), family, max_length)


@contextlib.contextmanager
def errors_of(name: str, key: str, source: str | None, out_dir: str | Path) -> Iterator[None]:
    """Let a `ModelError` name the study's entry, and its source where that has come to `out_dir`."""
    try:
        yield
    except ModelError as error:
        message = str(error).replace(str(out_dir), str(source)).replace("models.NAME.", f"models.{name}.")
        raise ModelError(f"models.{name}.{key}: {message}") from error


def write_manifest(folder: str | Path, source: Mapping[str, Any], may_run_code: bool = False, **more: Any) -> None:
    """Write the `manifest.json` of a whole model folder: where it came from (`source`), what it holds, and `more`.

    Parameters are those of the model that `config.json` describes, each counted once; files may hold buffers, and
    matrices that are one twice.
    """
    folder = Path(folder)
    tensors = tensor_shapes(folder)
    write_json(
        folder / "manifest.json",
        {
            "source": dict(source),
            "model_type": read_json(folder / "config.json", allow_nan=True).get("model_type"),
            "num_parameters": num_parameters(folder, may_run_code),
            "tensors_sha256": sha256_text(repr(sorted(tensors.items()))),
            "weights_sha256": weights_digests(folder),
            **more,
        },
    )
    logger.info("%s: %d tensors", folder, len(tensors))


def _link(source: Path, out: Path, code: bool) -> None:
    check_source(source, code=code)
    files = {file.name: file for file in (*small_files(source, code), *weights_files(source))}
    shutil.rmtree(out, ignore_errors=True)  # another source's files would pass for a part of this model
    out.mkdir(parents=True)
    for name, file in sorted(files.items()):
        (out / name).symlink_to(file.resolve())


def _download(hub: str, out: Path, code: bool) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    # What an offline machine, a wrong name and a missing licence raise; each message of the hub says which it was.
    owner = out / ".hub"
    if out.exists() and not (owner.is_file() and owner.read_text(encoding="utf-8") == hub):
        shutil.rmtree(out)  # as above; an interrupted download of the same model goes on
    write_text(owner, hub)
    known: tuple[type[Exception], ...] = (HfHubHTTPError, LocalEntryNotFoundError, OSError)
    # `*` of these patterns matches folders too, and what lies in them (onnx, original) is not this model
    small = [*SMALL_FILES, *(CODE if code else ())]
    try:
        snapshot_download(hub, allow_patterns=small, ignore_patterns=["*/*", "manifest.json"], local_dir=out)
        check_folder(out, code)
        snapshot_download(hub, allow_patterns=weights_names(out), local_dir=out)
    except known as error:
        raise ModelError(
            f"{hub}: cannot be fetched ({error}); on a machine without network set models.NAME.path to a local folder"
        ) from error
