"""What pydantic found wrong, as lines that people can act on: the key's path, what is wrong, the nearest known one."""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

_OTHER_TYPE = ("_type", "_parsing")
"""Ends of the names of problems that a value of another type has."""
_SETS = {"literal_error": "expected", "union_tag_invalid": "expected_tags"}
"""Where problems with values of closed sets list what is allowed."""


def nearest(name: str, known: list[str]) -> str:
    """A hint that names the nearest of `known`, or all of them when none is near."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known)) or 'none'}"


def explained(error: ValidationError, schema: Mapping[str, Any]) -> list[str]:
    """A line per problem; `schema` is the JSON schema of what was validated."""
    return [_explain(problem, schema) for problem in _clearest([dict(problem) for problem in error.errors()])]


def _clearest(problems: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Problems without those that merely follow: a list that lacks its bad values, the other type that was allowed."""
    for problem in problems:
        # not keys, but how pydantic names a mapping's key and the types of a union
        parts = [str(part) for part in problem["loc"]]
        problem["loc"] = tuple(
            part for part in parts if part != "[key]" and not re.search(r"^constrained-|\[.*\]$", part)
        )
    return [
        problem
        for problem in problems
        if not any(
            other["loc"][: len(problem["loc"])] == problem["loc"]
            and (
                len(other["loc"]) > len(problem["loc"])
                or problem["type"].endswith(_OTHER_TYPE) > other["type"].endswith(_OTHER_TYPE)
            )
            for other in problems
        )
    ]


def _explain(problem: dict[str, Any], schema: Mapping[str, Any]) -> str:
    location = problem["loc"]
    place = ".".join(location)
    if problem["type"] == "extra_forbidden":
        return f"{place}: unknown key {location[-1]!r}; {nearest(location[-1], _keys_at(location[:-1], schema))}"
    value = problem.get("input")
    shown = "" if problem["type"] == "missing" or isinstance(value, dict) else f" (found {value!r})"
    return f"{place}: {problem['msg'].removeprefix('Value error, ')}{shown}{_nearest_of_set(problem)}"


def _nearest_of_set(problem: dict[str, Any]) -> str:
    """A hint for a value of a closed set, such as the kind of an entry; nothing where none is near."""
    allowed = problem.get("ctx", {}).get(_SETS.get(problem["type"], ""), "")
    value = problem.get("ctx", {}).get("tag", problem.get("input"))
    close = difflib.get_close_matches(str(value), re.findall("'([^']*)'", str(allowed)), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _keys_at(location: Sequence[str], schema: Mapping[str, Any]) -> list[str]:
    """Known keys of the schema object at a location such as ['methods', 'lora-r8', 'lora']."""
    definitions = schema["$defs"]

    def resolve(node: Any) -> list[Any]:
        """All object schemas that a node may stand for."""
        if "$ref" in node:
            return resolve(definitions[node["$ref"].rsplit("/", 1)[-1]])
        options = [*node.get("anyOf", ()), *node.get("oneOf", ())]
        return [deeper for option in options for deeper in resolve(option)] or [node]

    nodes: list[Any] = [schema]
    for part in location:
        following = []
        for node in nodes:
            if part in node.get("properties", {}):
                following += resolve(node["properties"][part])
            elif "items" in node and part.isdigit():
                following += resolve(node["items"])
            elif isinstance(node.get("additionalProperties"), dict):
                following += resolve(node["additionalProperties"])
            elif part in (node.get("properties", {}).get("kind", {}).get("const"),):
                following.append(node)
            elif isinstance(node.get("patternProperties"), dict):
                for child in node["patternProperties"].values():
                    following += resolve(child)
        nodes = following or nodes
    return sorted({key for node in nodes for key in node.get("properties", {})})
