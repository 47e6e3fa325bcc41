"""Where what a study names lies: files of its own, and retrievers' models, folders or parts of Python packages."""

import importlib.util
from pathlib import Path

import retrotune
from retrotune.errors import ConfigError, RetrievalError
from retrotune.study.model_folders import broken_link


def locate_file(name: str) -> Path:
    """A file that a study names, from the working folder; else, a relative one, from the checkout of this package.

    So a study in a folder of its own finds the files that come with the program. `ConfigError` if it is in neither.
    """
    checkout = Path(retrotune.__file__).resolve().parents[2]
    for path in (Path(name), checkout / name):
        if path.is_file():
            return path
    raise ConfigError(f"{name}: no such file, neither here nor in {checkout}: write its path, or leave it out")


def locate_model(name: str) -> str:
    """Folder of a model, or its name on the hub.

    `package:NAME/FOLDER` is a folder inside an installed Python package, found without running the package's code.
    Raises `RetrievalError` for a package or folder that is not there, and for one with a link that leads nowhere: what
    the folder declares would silently be missing. What is no path is taken for a hub name.
    """
    if name.startswith("package:"):
        package, _, folder = name.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
        if spec is None:
            raise RetrievalError(f"retriever model {name!r}: Python package {package!r} is not installed; install it")
        for location in spec.submodule_search_locations or ():
            if (Path(location) / folder).is_dir():
                return str(Path(location) / folder)
        raise RetrievalError(f"retriever model {name!r}: the package has no folder {folder!r}")
    path = Path(name)
    if path.is_dir():
        if problem := broken_link(path, ("*", "*/*.json")):
            raise RetrievalError(f"retriever model {name!r}: {problem}")
        return str(path)
    if path.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise RetrievalError(f"retriever model {name!r}: no such folder; put the model there or correct the path")
    return name
