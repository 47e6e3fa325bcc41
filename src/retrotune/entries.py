"""What all declared values share: the base class of entries, and the kinds of values."""

import os
import re
import unicodedata
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

Family = Literal["gpt", "retro"]
PositiveInt = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
LARGEST_SEED = 2**32 - 1
"""NumPy's generators take no more, torch and Python do."""
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
LONGEST_FILE_NAME = 255
"""In bytes; most file systems' limit."""
LONGEST_NAME = 60
"""Of an entry: five names and a seed, joined, are the name of a folder (logs of Slurm)."""


class Entry(BaseModel):
    """Base of all entries: immutable, unknown keys forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def given(self) -> dict[str, Any]:
        """Values that are no defaults, as JSON has them; an equal entry can be made of them."""
        return self.model_dump(mode="json", exclude_defaults=True)


@dataclass(frozen=True)
class Matching:
    """Annotation of text that `pattern` matches from end to end; errors tell `rule`, the same in words."""

    pattern: str
    rule: str
    max_length: int | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        limit = {} if self.max_length is None else {"maxLength": self.max_length}
        return {**handler(schema), "pattern": f"^{self.pattern}$", **limit}

    def check(self, text: str) -> str:
        """`text`, if it is as the rule says."""
        if self.max_length is not None and len(text) > self.max_length:
            raise ValueError(f"{len(text)} characters, but {self.rule}")
        if not re.fullmatch(self.pattern, text):
            raise ValueError(self.rule)
        return text


Name = Annotated[
    str,
    Matching(
        "[A-Za-z0-9][A-Za-z0-9._-]*",
        f"a name has at most {LONGEST_NAME} letters, digits, `.`, `_`, `-` (no accents, no blanks) and begins with a "
        "letter or digit",
        LONGEST_NAME,
    ),
]


def _place(text: str) -> str:
    """A path as Snakemake has it, without what says the same twice; `~` is the home folder."""
    if not text or text != text.strip():
        raise ValueError("a path is not empty, and begins and ends with no blank")
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
        raise ValueError("a path holds no line break, tab or other control character")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        raise ValueError("a path of this machine is needed, not an address: copy or mount what lies there")
    if variable := re.search(r"\$(\w+|\{\w*\})", text):
        raise ValueError(f"{variable[0]} is not filled in: write the folder itself")
    expanded = os.path.expanduser(text)  # noqa: PTH111 (pathlib raises another error)
    path = re.sub("^/+", "/", os.path.normpath(expanded))
    if re.search("[{}]", path):
        raise ValueError("braces are wildcards for Snakemake: rename the folder, or lead to it by a link without them")
    if any(len(os.fsencode(part)) > LONGEST_FILE_NAME for part in path.split("/")):
        raise ValueError(f"a folder's or file's name has at most {LONGEST_FILE_NAME} bytes")
    if path.startswith("~"):
        raise ValueError("`~` is the home folder and `~NAME` that of a user, who is not known here")
    if ".." in expanded.split("/") and os.path.realpath(expanded) != os.path.realpath(path):
        raise ValueError("`..` behind a link leads elsewhere than it looks: write the folder itself")
    return path


def _folder_to_fill(path: str) -> str:
    if path in (".", "/"):
        raise ValueError("a folder of its own is needed, such as `results`")
    return path


def _place_or_name(text: str) -> str:
    """As `_place`, but what is no path stays; a path that could be a name keeps the `./` that tells it from one."""
    if text.startswith("package:"):
        return text
    path = _place(text)
    looks_like_path = text.startswith("./") or text.endswith("/")
    return f"./{path}" if looks_like_path and not path.startswith(("/", ".")) else path


Place = Annotated[str, AfterValidator(_place)]
"""A file or folder."""
FolderToFill = Annotated[str, AfterValidator(_place), AfterValidator(_folder_to_fill)]
"""A folder that the workflow makes, and puts folders into."""
PlaceOrName = Annotated[str, AfterValidator(_place_or_name)]
"""A folder, the name of a model on the hub, or `package:NAME/FOLDER`."""
