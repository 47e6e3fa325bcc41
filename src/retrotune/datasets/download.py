"""Official sources of the raw files, and fetching them: resumable, verified, never half-written.

Sizes and checksums stand in the table only where they are published for that very file; null means unknown, and then
only the length that the server announces is checked.
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
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from retrotune.errors import ConfigError, DataError
from retrotune.files import atomic_write, read_json, sha256, write_json
from retrotune.log import logger

MANIFEST = "download.json"
_GITHUB = "https://raw.githubusercontent.com"
_PIECE = 1 << 20


@dataclass(frozen=True)
class RawFile:
    """One file of a source: where it is, its name below the source's folder, and what is known of its bytes.

    An archive (zip, tar) is unpacked: the members whose last path part matches one of `members` land in the folder
    `into`, and the archive is deleted.
    """

    url: str
    name: str
    size: int | None = None
    sha256: str | None = None
    members: tuple[str, ...] = ()
    into: str = "."


def _scrolls(task: str) -> tuple[RawFile, ...]:
    url = f"https://huggingface.co/datasets/tau/scrolls/resolve/main/{task}.zip"
    return (RawFile(url, f"{task}.zip", members=("train.jsonl", "validation.jsonl", "test.jsonl")),)


SOURCES: dict[str, tuple[RawFile, ...]] = {
    "nq": (
        RawFile(
            f"{_GITHUB}/google-research-datasets/natural-questions/master/nq_open/NQ-open.train.jsonl",
            "NQ-open.train.jsonl",
            8522298,
            "0c93aaf13b12f855628489665e4ef85ffb8573ad444646f11f4fabdc57a0aabf",
        ),
        RawFile(
            f"{_GITHUB}/google-research-datasets/natural-questions/master/nq_open/NQ-open.dev.jsonl",
            "NQ-open.dev.jsonl",
            391316,
            "f15567f38099f3615f5b8a685c0aef449c11ad90d3da3735e8d1b98115b40616",
        ),
    ),
    "nq-dpr": tuple(
        RawFile(f"https://dl.fbaipublicfiles.com/dpr/data/retriever/{name}", name)
        for name in ("biencoder-nq-train.json.gz", "biencoder-nq-dev.json.gz")
    ),
    "triviaqa": (
        RawFile(
            "https://nlp.cs.washington.edu/triviaqa/data/triviaqa-unfiltered.tar.gz",
            "triviaqa-unfiltered.tar.gz",
            632549060,
            "7f0c94207fd0a1eb7bba3d52cdfe0735c98de850b9e5aa4e75f2776ef9a531d0",
            members=("unfiltered-web-train.json", "unfiltered-web-dev.json"),
        ),
    ),
    "triviaqa-dpr": tuple(
        RawFile(f"https://dl.fbaipublicfiles.com/dpr/data/retriever/{name}", name)
        for name in ("biencoder-trivia-train.json.gz", "biencoder-trivia-dev.json.gz")
    ),
    # The official repository scrapes the stories from their websites; the archive holds the result.
    "narrativeqa": (
        RawFile(f"{_GITHUB}/google-deepmind/narrativeqa/master/documents.csv", "documents.csv"),
        RawFile(f"{_GITHUB}/google-deepmind/narrativeqa/master/qaps.csv", "qaps.csv"),
        RawFile(
            "https://huggingface.co/datasets/deepmind/narrativeqa/resolve/main/data/narrativeqa_full_text.zip",
            "narrativeqa_full_text.zip",
            187416846,
            "3e179a579d348da37b4929f20ece277a721f853fdc5efc11f915904de2a71727",
            members=("*.content",),
            into="tmp",
        ),
    ),
    "qasper": (
        RawFile(
            "https://qasper-dataset.s3.us-west-2.amazonaws.com/qasper-train-dev-v0.3.tgz",
            "qasper-train-dev-v0.3.tgz",
            sha256="a28fdf966db827bcee3d873107d6b6669864fb7ca8fbf73a192f5e39191bdb5a",
            members=("qasper-*.json",),
        ),
        RawFile(
            "https://qasper-dataset.s3.us-west-2.amazonaws.com/qasper-test-and-evaluator-v0.3.tgz",
            "qasper-test-and-evaluator-v0.3.tgz",
            3865061,
            "72a52a41193e2838b8074f80ac074b94f956b84886c36a61c58a7df4171bdd72",
            members=("qasper-*.json",),
        ),
    ),
    "quality": (
        RawFile(
            "https://github.com/nyu-mll/quality/raw/main/data/v1.0.1/QuALITY.v1.0.1.zip",
            "QuALITY.v1.0.1.zip",
            members=("QuALITY.*.htmlstripped.train", "QuALITY.*.htmlstripped.dev"),
        ),
    ),
    "qmsum": tuple(
        RawFile(f"{_GITHUB}/Yale-LILY/QMSum/main/data/ALL/jsonl/{split}.jsonl", f"ALL/jsonl/{split}.jsonl")
        for split in ("train", "val", "test")
    ),
    "scrolls-narrativeqa": _scrolls("narrative_qa"),
    "scrolls-qasper": _scrolls("qasper"),
    "scrolls-quality": _scrolls("quality"),
    "scrolls-qmsum": _scrolls("qmsum"),
    "wikipedia": (RawFile("https://dl.fbaipublicfiles.com/dpr/wikipedia_split/psgs_w100.tsv.gz", "psgs_w100.tsv.gz"),),
}


def download_source(name: str, folder: str | Path) -> list[Path]:
    """Fetch the official files of a source (a key of `SOURCES`) into `folder`; the paths of the files to read.

    Raises `ConfigError` for an unknown source, `DataError` as `download_files` does.
    """
    if name not in SOURCES:
        raise ConfigError(f"download source {name!r} is unknown; known are {', '.join(SOURCES)}")
    return download_files(SOURCES[name], folder)


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
