"""Scores of a file of predictions that comes from anywhere: `retrotune score`.

Each line is a record `{"prediction", "answers", "options"?, "question_id"?, "doc_id"?, "types"?}`. It holds all that
its score needs, and predictions are scored as they stand: nothing is cut or parsed but the choice of an option.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from retrotune.data.corpora.records import BadRecordError, BadRecords, read_json_lines
from retrotune.data.datasets import SPECS
from retrotune.data.datasets.base import LETTERS, Reference
from retrotune.data.scores import METRICS, STEMMED, parts_of
from retrotune.errors import ConfigError, DataError
from retrotune.scoring.metrics import answer_type, score_prediction
from retrotune.scoring.score import summarize
from retrotune.study.config import nearest

GROUPS: dict[str, tuple[str, ...]] = {
    "em": ("exact_match",),
    "accuracy": ("accuracy", "parsable"),
    "rouge": ("rouge_geometric_stemmed", "rouge_arithmetic_stemmed", *STEMMED),
    **{name: spec.metrics for name, spec in SPECS.items()},
}
"""Names that stand for several metrics, or for one under a shorter name; the headline comes first."""

KEYS = ("prediction", "answers", "options", "question_id", "doc_id", "types")
_EXAMPLE = '{"prediction": "in Oslo", "answers": ["Oslo"]}'
_REMEDY = f"each line is one record such as {_EXAMPLE}"


def metrics_named(name: str) -> tuple[str, ...]:
    """The metrics that a name stands for, the headline first; `ConfigError` with the nearest name if there is none."""
    if name in GROUPS:
        return GROUPS[name]
    if name in METRICS:
        return (name,)
    raise ConfigError(f"--metric {name}: no such metric or dataset; {nearest(name.lower(), [*GROUPS, *METRICS])}")


def score_file(path: str | Path, metric: str) -> dict[str, Any]:
    """Scores of a file's predictions as JSON has them: 0 to 100, with 95 % intervals.

    `metrics` holds the entry of each metric that `metric` stands for, `by_type` those of the first for each type of
    answer where records have types. Questions with one `doc_id` are a cluster; without any each is its own. Raises
    `ConfigError` for an unknown metric and `DataError` with file and line for what cannot be scored.
    """
    metrics = metrics_named(metric)
    bad = BadRecords(remedy=_REMEDY)
    if not Path(path).exists():
        raise DataError(f"{path}: no such file; name one with a record such as {_EXAMPLE} on each line")
    rows = list(_rows(Path(path), metrics, bad))
    if not rows:
        raise DataError(f"{path}: holds no record; {_REMEDY}")
    for key, named in (("doc_id", "doc_id"), ("types", "type")):
        lacking = [row["place"] for row in rows if row[named] is None]
        if 0 < len(lacking) < len(rows):
            raise DataError(
                f"{lacking[0]}: no {key}, which {len(rows) - len(lacking)} of {len(rows)} records have; give it in all "
                "records or in none"
            )
    types = dict.fromkeys(row["type"] for row in rows if row["type"] is not None)
    return {
        "file": str(path),
        "metric": metric,
        "scale": "0 to 100",
        "metrics": {name: summarize(rows, name, primary=name == metrics[0]) for name in metrics},
        "by_type": {kind: summarize([row for row in rows if row["type"] == kind], metrics[0]) for kind in types},
    }


def _rows(path: Path, metrics: tuple[str, ...], bad: BadRecords) -> Iterator[dict[str, Any]]:
    """A row per record, as `summarize` takes it, with the record's place."""
    parts = parts_of(metrics)
    needs_options = [name for name in metrics if METRICS[name].needs_options]
    first_places: dict[str, str] = {}
    for place, record in read_json_lines(path, bad, unique_keys=True):
        with bad.at(place):
            prediction, reference = _read(record, place)
            if needs_options and not reference.options:
                raise BadRecordError(f"no options, which {needs_options[0]} needs")
            first = first_places.setdefault(reference.question_id, place)
            if first is not place:
                raise BadRecordError(f"question {reference.question_id!r} appears twice, first at {first}")
            try:
                scores = score_prediction(prediction, reference, parts)
            except DataError as error:
                raise BadRecordError(str(error)) from error
            yield {
                "place": place,
                "question_id": reference.question_id,
                "doc_id": reference.doc_id,
                "type": answer_type(prediction, reference),
                "scores": scores,
            }


def _read(record: Any, place: str) -> tuple[str, Reference]:
    """A record's prediction and what it is held against; a question without an id has its place for one."""
    if not isinstance(record, dict):
        raise BadRecordError(f"the record is not an object but {_shown(record)}")
    for key in record:
        if key not in KEYS:
            raise BadRecordError(f"unknown key {key!r}, {nearest(key, list(KEYS))}")
    if "prediction" not in record:
        raise BadRecordError("no prediction; where a model said nothing write an empty text")
    if not isinstance(record["prediction"], str):
        raise BadRecordError(
            f"prediction is {_shown(record['prediction'])}, not text; where a model said nothing write an empty text"
        )
    answers = _texts(record, "answers")
    if not answers:
        raise BadRecordError("no answers; give at least one text that is right")
    options, types = _texts(record, "options"), _texts(record, "types")
    if options and not 2 <= len(options) <= len(LETTERS):
        raise BadRecordError(f"{len(options)} options; a choice has 2 to {len(LETTERS)}, one for each letter")
    if types and len(types) != len(answers):
        raise BadRecordError(f"{len(types)} types of {len(answers)} answers; give each answer its type")
    question_id = _name(record, "question_id")
    reference = Reference(
        f"at {place}" if question_id is None else question_id, _name(record, "doc_id"), answers, types, options
    )
    return record["prediction"], reference


def _texts(record: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """A list of texts, none of them blank; () where the key is missing or null."""
    values = record.get(key)
    if values is None:
        return ()
    if isinstance(values, str):
        raise BadRecordError(f"{key} is a single text; write a list: {json.dumps([values], ensure_ascii=False)}")
    if not isinstance(values, list):
        raise BadRecordError(f"{key} is {_shown(values)}, not a list of texts")
    for number, value in enumerate(values, start=1):
        if not isinstance(value, str):
            raise BadRecordError(f"{key}: number {number} is {_shown(value)}, not text")
        if not value.strip():
            raise BadRecordError(f"{key}: number {number} is empty; leave it out, or write what it should be")
    return tuple(values)


def _name(record: Mapping[str, Any], key: str) -> str | None:
    """An id, a text or a whole number; None where the key is missing or null."""
    value = record.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise BadRecordError(f"{key} is {_shown(value)}; it must be a text that is not empty")
    return str(value)


def _shown(value: Any) -> str:
    """A value as JSON writes it, cut to what fits a message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}…"
