"""Official sources of the raw files, and fetching them: resumable, verified, never half-written.

Where neither size nor checksum of a file is published, only the length that the server announces is checked.
"""

import fnmatch
import http.client
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from retrotune.data.datasets import SPECS
from retrotune.data.datasets.base import RawFile
from retrotune.errors import ConfigError, DataError
from retrotune.runtime.files import atomic_write, read_json, sha256, write_json
from retrotune.runtime.log import logger
from retrotune.study.stages import DownloadSourceParams

MANIFEST = "download.json"
_PIECE = 1 << 20


WIKIPEDIA = RawFile("https://dl.fbaipublicfiles.com/dpr/wikipedia_split/psgs_w100.tsv.gz", "psgs_w100.tsv.gz")
SOURCES: dict[str, tuple[RawFile, ...]] = {
    **{spec.source(name): layout.download for spec in SPECS.values() for name, layout in spec.layouts.items()},
    "wikipedia": (WIKIPEDIA,),
}
"""Official files by the name of their source: those of each dataset's layouts, and of corpora."""


def download_source(params: DownloadSourceParams, root: str | Path) -> list[Path]:
    """Fetch the official files of a source (a key of `SOURCES`) into its folder below `root`; the files to read.

    Raises `ConfigError` for an unknown source, `DataError` as `download_files` does.
    """
    if params.source not in SOURCES:
        raise ConfigError(f"download source {params.source!r} is unknown; known are {', '.join(SOURCES)}")
    return download_files(SOURCES[params.source], Path(root) / params.folder)


def download_files(files: tuple[RawFile, ...], folder: str | Path, attempts: int = 5, wait: float = 2.0) -> list[Path]:
    """Fetch `files` into `folder`, unpack archives, and write `download.json` (sha256 of each file read) last.

    What is complete is kept, what was interrupted goes on where it stopped. A file put there by hand is used like a
    downloaded one. `attempts` per file, after waits of `wait` seconds times 1, 2, 4, ...

    Raises `DataError` if a file cannot be fetched (with the URL and where to put it by hand), differs in size or
    checksum, or if an archive has members that would land outside of the folder.
    """
    folder = Path(folder)
    known = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
    paths: list[Path] = []
    for file in files:
        record = known.get(file.url)
        if record is None or not all((folder / name).is_file() for name in record["files"]):
            target = folder / file.name
            if not target.is_file():
                _fetch(file, target, attempts, wait)
            digest = _verify(file, target)
            names = _unpack(file, target, folder) if file.members else [file.name]
            record = {"sha256": digest, "files": {name: sha256(folder / name) for name in names}}
            known[file.url] = record
            write_json(folder / MANIFEST, known)
            if file.members:
                target.unlink()
        paths.extend(folder / name for name in record["files"])
    return paths


def _verify(file: RawFile, path: Path) -> str:
    size, digest = path.stat().st_size, sha256(path)
    for what, found, wanted in (("bytes", size, file.size), ("sha256", digest, file.sha256)):
        if wanted is not None and found != wanted:
            raise DataError(
                f"{path}: {what} {found}, expected {wanted} for {file.url}; delete the file to fetch it again, "
                "and if it differs again the source has changed"
            )
    return digest


def _fetch(file: RawFile, target: Path, attempts: int, wait: float) -> None:
    """Fetch one file through `{name}.part`, which a later call continues, and give it its name when it is whole."""
    if urllib.parse.urlsplit(file.url).scheme not in ("http", "https"):
        raise ConfigError(f"{file.url}: only http and https addresses can be fetched")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    fault: Exception | None = None
    for attempt in range(attempts):
        if attempt:
            time.sleep(wait * 2 ** (attempt - 1))
        try:
            _transfer(file, part)
        except urllib.error.HTTPError as error:
            fault = error
            if error.code < 500 and error.code not in (408, 429):
                break
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and not isinstance(
                error, urllib.error.URLError | ConnectionError | TimeoutError
            ):
                raise  # a full disk or a folder without permission is no fault of the network
            fault = error
        else:
            _verify(file, part)
            part.replace(target)
            part.with_suffix(".etag").unlink(missing_ok=True)
            return
        logger.warning("%s: %s (attempt %d of %d)", file.url, fault, attempt + 1, attempts)
    raise DataError(
        f"cannot fetch {file.url}: {fault}; fetch it on a machine with network access and put it at {target}"
        + (f" ({part} continues at {part.stat().st_size} bytes)" if part.is_file() else "")
    ) from fault


def _transfer(file: RawFile, part: Path) -> None:
    """One request; appends to `part` if the server still has the same file, else begins anew.

    Raises `ConnectionError` if the connection ends before the announced length.
    """
    tag_file = part.with_suffix(".etag")
    have = part.stat().st_size if part.is_file() else 0
    headers = {"Accept-Encoding": "identity", "User-Agent": "retrotune"}
    if have and tag_file.is_file():
        headers |= {"Range": f"bytes={have}-", "If-Range": tag_file.read_text(encoding="utf-8")}
    try:
        response = urllib.request.urlopen(urllib.request.Request(file.url, headers=headers), timeout=60)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is as long as the file or longer: begin anew
            part.unlink(missing_ok=True)
            raise ConnectionError("the server has no such range; the part is discarded") from error
        raise
    with response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise ConnectionError("the server sent another range than asked for; the part is discarded")
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        tag = response.headers.get("ETag")
        if tag and not tag.startswith("W/"):
            tag_file.write_text(tag, encoding="utf-8")
        else:
            tag_file.unlink(missing_ok=True)
        with open(part, "ab" if resumed else "wb") as stream:
            shutil.copyfileobj(response, stream, _PIECE)
            stream.flush()
            os.fsync(stream.fileno())
        received = part.stat().st_size - start
        if length is not None and received != int(length):
            raise ConnectionError(f"the connection ended after {received} of {length} bytes")


@contextmanager
def _open_archive(path: Path) -> Iterator[list[tuple[str, IO[bytes] | None]]]:
    """Members of a zip or tar archive as (name, stream or None for folders and links); nothing is extracted."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield [(info.filename, None if info.is_dir() else archive.open(info)) for info in archive.infolist()]
        else:
            with tarfile.open(path) as tar:
                yield [(info.name, tar.extractfile(info) if info.isfile() else None) for info in tar.getmembers()]
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise DataError(f"{path}: damaged archive ({error}); delete it to fetch it again") from error


def _unpack(file: RawFile, archive: Path, folder: Path) -> list[str]:
    """Unpack the wanted members, each atomically; their names below `folder`.

    Every member's path is checked before anything is written; only regular files are taken, under their last name.
    """
    names: list[str] = []
    with _open_archive(archive) as members:
        for member, _ in members:
            path = PurePosixPath(member.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0]):
                raise DataError(f"{archive}: member {member!r} would land outside of {folder}; the archive is not used")
        for member, stream in members:
            path = PurePosixPath(member)
            hidden = path.name.startswith(".") or "__MACOSX" in path.parts
            if stream is None or hidden or not any(fnmatch.fnmatch(path.name, wanted) for wanted in file.members):
                continue
            name = (PurePosixPath(file.into) / path.name).as_posix()
            if name in names:
                raise DataError(f"{archive}: two members are called {path.name}; the archive is not used")
            with atomic_write(folder / name) as temporary, open(temporary, "wb") as out:
                shutil.copyfileobj(stream, out, _PIECE)
            names.append(name)
    if not names:
        raise DataError(f"{archive}: has no member {' or '.join(file.members)}; is it the right archive?")
    return names
