"""What program made a result: versions of packages, the machine, and the commit of the checkout that the code is in."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

from retrotune import __version__

DISTRIBUTIONS = {
    "torch": ("torch",),
    "transformers": ("transformers",),
    "peft": ("peft",),
    "faiss": ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12", "faiss-gpu-cu11", "faiss"),
    "rouge_score": ("rouge-score",),
}
"""Packages whose version a result records, and the distributions they may come from."""


def software() -> dict[str, Any]:
    """Versions of packages and the machine; None for what is not installed or not known."""
    return {
        "retrotune": __version__,
        **{name: _installed(distributions) for name, distributions in DISTRIBUTIONS.items()},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git": git_state(Path(__file__)),
    }


def _installed(distributions: tuple[str, ...]) -> str | None:
    for distribution in distributions:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def git_state(file: Path) -> dict[str, Any] | None:
    """Commit and dirtiness of the checkout that tracks `file`; None outside of one or without git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(file.parent), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)  # noqa: S603 (no input)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)  # not a checkout that merely surrounds an installation
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None
