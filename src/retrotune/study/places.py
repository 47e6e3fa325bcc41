"""Where a retriever's model lies: a folder, a folder inside an installed Python package, or the hub."""

import importlib.util
from pathlib import Path

from retrotune.errors import RetrievalError
from retrotune.study.model_folders import broken_link


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
