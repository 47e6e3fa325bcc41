"""Published scores that a study's own are shown beside: files of numbers with their source and set-up."""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from retrotune.data.datasets import SPECS
from retrotune.data.scores import METRICS
from retrotune.entries import Entry, Family, PositiveInt
from retrotune.errors import ConfigError
from retrotune.methods import METHODS

TITLES = list(dict.fromkeys(metric.title for metric in METRICS.values()))


class PublishedNumber(Entry):
    """A score from the literature: a line of a file of published numbers, whose columns are these fields."""

    family: Family = Field(description="gpt, retro")
    size: str = Field(min_length=1, description="as entries of `models` call it")
    parameters: PositiveInt | None = Field(None, description="of the model; a study's differs by a quarter at most")
    instruct: bool = Field(description="yes: tuned on instructions")
    encoder: Literal["on", "off"] | None = Field(None, description="RETRO's neighbor encoder; empty for gpt")
    passages: bool = Field(description="yes: with retrieved passages")
    method: str = Field(description="kind of method")
    dataset: str = Field(description="reader of the dataset")
    metric: str = Field(description="as tables print it, such as EM")
    value: float = Field(ge=0, le=100, description="the score, from 0 to 100")
    label: str = Field(min_length=1, description="the source's name of the model")
    source: str = Field(min_length=1, description="where the number stands")
    difference: str = Field(min_length=1, description="how its set-up differs from the studies here")

    @field_validator("method", "dataset", "metric")
    @classmethod
    def _known(cls, name: str, info: ValidationInfo) -> str:
        known = {"method": list(METHODS), "dataset": list(SPECS), "metric": TITLES}[str(info.field_name)]
        if name not in known:
            raise ValueError(f"is none of {', '.join(known)}")
        return name


def read_published(path: str | Path) -> list[PublishedNumber]:
    """The numbers of a csv file; `ConfigError` names file, line and column of what is wrong, one line per problem."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            lines = [(reader.line_num, line) for line in reader if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); it must be a csv file in UTF-8") from error
    _, header = lines[0] if lines else (1, [])
    expected = list(PublishedNumber.model_fields)
    if Counter(header) != Counter(expected):
        raise ConfigError(f"{path}:1: columns {', '.join(header) or 'none'}; expected {', '.join(expected)}")
    numbers: list[PublishedNumber] = []
    problems: list[str] = []
    for number, line in lines[1:]:
        if len(line) != len(header):
            problems.append(f"{path}:{number}: {len(line)} values for {len(header)} columns: quote texts with commas")
            continue
        given = {name: text.strip() for name, text in zip(header, line, strict=True) if text.strip()}
        try:
            numbers.append(PublishedNumber.model_validate(given))
        except ValidationError as error:
            problems += _problems(f"{path}:{number}", error)
    if problems:
        raise ConfigError("published numbers have errors:\n  " + "\n  ".join(problems))
    return numbers


def _problems(place: str, error: ValidationError) -> Iterator[str]:
    for problem in error.errors():
        column = ".".join(map(str, problem["loc"]))
        found = "" if problem["type"] == "missing" else f" (found {problem['input']!r})"
        yield f"{place}: {column}: {problem['msg'].removeprefix('Value error, ')}{found}"
