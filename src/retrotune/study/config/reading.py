"""YAML and JSON files of a study: what they say twice, or say otherwise than it looks, is refused with its line.

Reads what Snakemake reads, in the same order: JSON first, then YAML 1.1.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrotune.errors import ConfigError

if TYPE_CHECKING:
    import yaml

MERGE = "tag:yaml.org,2002:merge"
TEXT = "tag:yaml.org,2002:str"
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
DISGUISED = re.compile(r"[-+]?(0[0-7_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
"""Numbers of YAML 1.1 that look like others: 010 is eight, 1:30 is ninety."""


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML or JSON file that holds a mapping; `ConfigError` names what is wrong with it."""
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such configuration file") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); it must be a file that you may read") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}:{line}: not UTF-8 (byte 0x{error.object[error.start]:02x}); save the file as UTF-8"
        ) from error
    raw = parse_yaml(text, path)
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a configuration is a mapping of keys, found {type(raw).__name__}")
    return raw


def check_files(paths: Iterable[str | Path], arguments: Sequence[str] = ()) -> None:
    """Refuse what Snakemake has read, which takes the last of two values without a word.

    Those are files at `paths`, and the profiles and settings that the command line `arguments` name.
    """
    options = ("--profile", "--workflow-profile")
    named = [Path(value) for option, value in pairwise(arguments) if option in options]
    profiles = [file for path in named for file in (path, path / "config.yaml", path / "profile.yaml")]
    for path in (*paths, *filter(Path.is_file, profiles)):
        read_yaml(path)
    option = ""
    for word in arguments:
        if word.startswith("-"):
            option = word
        elif option in ("--config", "-C"):
            check_settings([word])


def check_settings(settings: Iterable[str]) -> None:
    """Refuse settings (`KEY=VALUE`) of a command line whose value, a mapping, says something twice."""
    import yaml

    for setting in settings:
        key, _, value = setting.partition("=")
        try:
            node = yaml.compose(value.strip("'\""), Loader=yaml.BaseLoader)
        except yaml.YAMLError:
            continue  # for Snakemake it is text
        if node is not None and (problems := _problems(node, f"--config {key}")):
            raise ConfigError("the configuration has errors:\n  " + "\n  ".join(problems))


def parse_yaml(text: str, place: str | Path) -> Any:
    """The value of a YAML or JSON text; `place` names it in messages.

    Raises `ConfigError` for text that is neither, and with their lines for keys given twice in one mapping (after `<<`
    keys may be given again), for keys that are no text, and for numbers that are not what they look like.
    """
    import yaml

    value, is_json = None, True
    try:
        value = json.loads(text)
        text = text.replace("\t", " ")  # strings of JSON hold no tabs; between values YAML knows blanks only
    except (ValueError, RecursionError):
        is_json = False
    # libyaml is fast, but does not read characters that JSON writes as two escapes
    loader = (yaml.SafeLoader if is_json else getattr(yaml, "CSafeLoader", yaml.SafeLoader))(text)
    try:
        node = loader.get_single_node()
        if node is not None and (problems := _problems(node, place)):
            raise ConfigError("the configuration has errors:\n  " + "\n  ".join(problems))
        return value if is_json else loader.construct_document(node) if node is not None else None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        # what looks like a date or a number and is none is a ValueError
        raise ConfigError(f"{place}: not valid YAML: {error}") from error
    finally:
        loader.dispose()


def _problems(root: "yaml.Node", place: str | Path) -> list[str]:
    """What is wrong with a document, in the order of its lines."""
    from yaml import MappingNode, ScalarNode

    found: list[tuple[int, str]] = []
    for name, node in _nodes(root):
        if node.tag in NUMBERS and DISGUISED.fullmatch(node.value):
            problem = f"{name}: YAML reads {node.value} to another base than ten: write the number meant, or quote it"
            found.append((_line(node), problem))
        if isinstance(node, MappingNode):
            keys = [key for key, _ in node.value if isinstance(key, ScalarNode) and key.tag != MERGE]
            found += _key_problems(name, keys)
    return [f"{place}:{line}: {problem}" for line, problem in sorted(found)]


def _key_problems(name: str, keys: "Iterable[yaml.ScalarNode]") -> Iterator[tuple[int, str]]:
    """(line, problem) of the keys of the mapping called `name`."""
    first: dict[str, int] = {}
    for key in keys:
        line, full_name = _line(key), f"{name}.{key.value}".lstrip(".")
        if key.value in first:
            yield line, f"{full_name}: duplicate key, given first in line {first[key.value]}: keep one of them"
        elif key.tag != TEXT:
            yield line, f"{full_name}: YAML reads this name as {key.tag.rpartition(':')[2]}, no text: put it in quotes"
        first.setdefault(key.value, line)


def _nodes(root: "yaml.Node") -> "Iterator[tuple[str, yaml.Node]]":
    """All nodes with their names (`grid.0.models`), each once: an alias leads to a node that has a name already."""
    from yaml import MappingNode, SequenceNode

    waiting, seen = [("", root)], set[int]()
    for name, node in waiting:  # it grows on the way
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield name, node
        if isinstance(node, MappingNode):
            waiting += ((f"{name}.{key.value}".lstrip("."), value) for key, value in node.value)
        elif isinstance(node, SequenceNode):
            waiting += ((f"{name}.{number}".lstrip("."), value) for number, value in enumerate(node.value))


def _line(node: "yaml.Node") -> int:
    return int(node.start_mark.line) + 1
