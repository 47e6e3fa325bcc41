"""Files of claims: found, read and checked. A name of an entry that a study does not have is no error there."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from retrotune.entries import Name
from retrotune.errors import ConfigError
from retrotune.study.config.claims import Claim
from retrotune.study.config.problems import explained
from retrotune.study.config.reading import read_yaml

CHECKOUT = Path(__file__).resolve().parents[4]
"""The folder that holds `src`, and `config` with the files that come with the workflow."""
_CLAIMS: TypeAdapter[dict[str, Claim]] = TypeAdapter(dict[Name, Claim])


def read_claims(paths: Sequence[str]) -> dict[str, Claim]:
    """All claims of some files by name, in order. `ConfigError` has a line per problem, with the file and the key."""
    claims: dict[str, Claim] = {}
    found_in: dict[str, str] = {}
    problems: list[str] = []
    for path in paths:
        try:
            claims_here = check_claims(read_yaml(_find(path)))
        except ValidationError as error:
            problems += [f"{path}: {line}" for line in explained(error, claims_schema())]
            continue
        for name in claims_here:
            if name in found_in:
                problems.append(f"{path}: {name}: {found_in[name]} has a claim of this name: rename one")
            found_in.setdefault(name, path)
        claims |= claims_here
    if problems:
        raise ConfigError("the claims have errors:\n  " + "\n  ".join(problems))
    return claims


def check_claims(raw: Mapping[str, Any]) -> dict[str, Claim]:
    """Claims by name, of the mapping that a file holds; pydantic's `ValidationError` says what is wrong."""
    return _CLAIMS.validate_python(raw)


def claims_schema() -> dict[str, Any]:
    """The JSON schema of a file of claims."""
    return _CLAIMS.json_schema()


def _find(path: str) -> Path:
    """The file at `path`: below the folder in which the study is run, else below the workflow's own."""
    for place in (Path(path), CHECKOUT / path):
        if place.is_file():
            return place
    raise ConfigError(
        f"claims: no file {path}, neither in {Path.cwd()} nor in {CHECKOUT}: name one that is there, or none "
        "(claims: [])"
    )
