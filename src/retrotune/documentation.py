"""What is generated from the configuration schema: `config/schema.json` and the key tables of `config/README.md`."""

import json
import re
from pathlib import Path
from typing import Any

from retrotune.config import Config
from retrotune.files import write_text

START, END = "<!-- generated from the schema: start -->", "<!-- generated from the schema: end -->"


def schema_text() -> str:
    """The JSON schema of a study's configuration; editors complete and check keys with it."""
    return json.dumps(Config.model_json_schema(), indent=2, sort_keys=True) + "\n"


def key_tables() -> str:
    """One Markdown table per kind of entry: key, type, default, meaning."""
    schema = Config.model_json_schema()
    parts = [_table("Top level", schema)]
    parts += [_table(name, part) for name, part in schema["$defs"].items() if "properties" in part]
    return "\n".join(parts)


def write_documentation(folder: str | Path) -> list[Path]:
    """Write the schema and replace the generated part of the README in the configuration folder."""
    folder = Path(folder)
    schema, readme = folder / "schema.json", folder / "README.md"
    write_text(schema, schema_text())
    write_text(readme, with_tables(readme.read_text(encoding="utf-8")))
    return [schema, readme]


def with_tables(readme: str) -> str:
    """The README's text with its generated part made anew."""
    before, rest = readme.split(START)
    after = rest.split(END)[1]
    return f"{before}{START}\n\n{key_tables()}\n{END}{after}"


def _table(name: str, schema: dict[str, Any]) -> str:
    title = re.sub(r"Entry$", "", name).lstrip("_")
    about = " ".join(schema.get("description", "").split())
    lines = [f"### {title}", "", about, "", "| key | type | default | meaning |", "|---|---|---|---|"]
    required = schema.get("required", [])
    for key, value in schema["properties"].items():
        default = "required" if key in required else f"`{_default(value)}`"
        meaning = value.get("description", "").replace("|", "\\|")
        lines.append(f"| `{key}` | {_type(value)} | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def _default(value: dict[str, Any]) -> str:
    if "default" in value:
        return json.dumps(value["default"])
    return "{}"


def _type(value: dict[str, Any]) -> str:
    if "$ref" in value:
        return value["$ref"].rsplit("/", 1)[-1]
    if "enum" in value:
        return " \\| ".join(map(str, value["enum"]))
    if "const" in value:
        return str(value["const"])
    options = [*value.get("anyOf", ()), *value.get("oneOf", ())]
    if options:
        return " \\| ".join(dict.fromkeys(_type(option) for option in options))
    if value.get("type") == "array":
        return f"list of {_type(value.get('items', {}))}"
    if value.get("type") == "object":
        children = [value.get("additionalProperties"), *value.get("patternProperties", {}).values()]
        children = [child for child in children if isinstance(child, dict)]
        return f"name: {_type(children[0])}" if children else "mapping"
    return str(value.get("type", "any"))
