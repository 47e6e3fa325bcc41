"""A cell's scores: `scores.jsonl` per question and `metrics.json`, made from predictions and references alone.

Neither a model nor a GPU is needed, so that a new metric or interval asks for no prediction again.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from retrotune.data.datasets.base import Reference
from retrotune.data.scores import METRICS, parts_of
from retrotune.errors import DataError, ResultError
from retrotune.preparing.examples import load_references
from retrotune.runtime.files import sha256, write_json, write_jsonl, write_text
from retrotune.runtime.log import log_configuration, logger
from retrotune.runtime.software import software
from retrotune.scoring.metrics import answer_type, score_prediction
from retrotune.scoring.statistics import cluster_of, score_estimate
from retrotune.study.cells import Cell
from retrotune.study.records import (
    MetricsRecord,
    Prediction,
    PredictRecord,
    TrainRecord,
    checked,
    now,
    read_predictions,
    read_record,
)
from retrotune.study.stages import ScoreParams


def score_cell(
    params: ScoreParams,
    cell: Cell,
    predictions: str | Path,
    predict_json: str | Path,
    references: str | Path,
    train_json: str | Path | None,
    out_scores: str | Path,
    out_metrics: str | Path,
) -> None:
    """Score a cell's answers: a line per question in `out_scores`, their means in `out_metrics`, written last.

    Existence of the latter is the proof that the cell is done. `config.yaml` beside it says what each stage used.
    `train_json` is None for zeroshot. Scores are from 0 to 100, with 95 % intervals over documents or, in the open
    domain, over questions. What prediction says of the base model and of the files that it read (their sha256) is taken
    over. Raises `ResultError` if predictions are empty, repeated, of other questions than the references', or cannot be
    scored by one of the metrics.
    """
    log_configuration({**vars(cell), "metrics": ", ".join(params.metrics)})
    predicted = read_record(PredictRecord, predict_json).model_dump()
    trained = None if train_json is None else read_record(TrainRecord, train_json).model_dump()
    known = load_references(references)
    rows = _scored(predictions, known, parts_of(params.metrics))
    headline = params.metrics[0]
    model, inputs = predicted.pop("model"), predicted.pop("inputs")
    used = {
        **({} if trained is None else {"finetune_cell": trained.pop("params")}),
        "predict_cell": predicted.pop("params"),
        "score_cell": params.recorded(),
    }
    stages = {stage: values["version"] for stage, values in used.items()}
    write_jsonl(out_scores, rows)
    write_text(
        Path(out_metrics).with_name("config.yaml"),
        yaml.safe_dump({**used, "base_model": model["params"]}, sort_keys=False),
    )
    metrics = {name: summarize(rows, name, primary=name == headline) for name in params.metrics}
    result = {
        "cell": vars(cell),
        "status": "done",
        "scale": "0 to 100",
        "model": {
            "num_parameters": model["num_parameters"],
            "fingerprint": model["fingerprint"],
            "departures": model["departures"] + _gate_departure(cell.model, predicted),
            **({"trust_remote_code": True} if model["trust_remote_code"] else {}),
        },
        "metrics": metrics,
        "by_type": {
            kind: summarize([row for row in rows if row["type"] == kind], headline)
            for kind in dict.fromkeys(row["type"] for row in rows)
            if kind is not None
        },
        "train": trained,
        "predict": predicted,
        "inputs": {
            **inputs,
            "predictions": sha256(predictions),
            "references": sha256(references),
            "scores": sha256(out_scores),
        },
        "versions": {"stages": stages, **software()},
        "finished": now(),
    }
    write_json(out_metrics, checked(MetricsRecord, result, out_metrics).model_dump(exclude_unset=True))
    logger.info("%s: %s %.2f over %d questions", cell.name, headline, metrics[headline]["value"], len(rows))


def summarize(rows: Sequence[Mapping[str, Any]], metric: str, primary: bool = False) -> dict[str, Any]:
    """One metric's entry: value, interval, number of questions and of clusters, and what the number means."""
    used = METRICS[metric]
    estimate = score_estimate(
        [[row["scores"][part] for part in used.parts] for row in rows],
        [cluster_of(row["question_id"], row["doc_id"]) for row in rows],
        used.combination,
    )
    low, high = estimate.interval() or (None, None)
    return {
        "value": estimate.value,
        "ci_low": low,
        "ci_high": high,
        "n": len(rows),
        "clusters": estimate.num_clusters,
        "higher_is_better": True,
        "primary": primary,
    }


def _gate_departure(model: str, predicted: Mapping[str, Any]) -> list[str]:
    """What a gate other than 1 means; under the model's name, as others of its family have another one."""
    gate = predicted["retrieval_gate"]
    if gate is None or gate == 1:
        return []
    if gate == 0:
        return [f"{model} has its neighbor encoder off (retrieval_gate 0)"]
    return [f"{model} scales what it reads from neighbors (retrieval_gate {gate:g})"]


def _scored(predictions: str | Path, references: Mapping[str, Reference], parts: Sequence[str]) -> list[dict[str, Any]]:
    """A row per prediction, in the order of the predictions: question_id, doc_id, type, scores by part."""
    rows: list[dict[str, Any]] = []
    remedy = Prediction.remedy
    for line, record in read_predictions(predictions):
        place, question_id = f"{predictions}:{line}", record.question_id
        if question_id not in references:
            raise ResultError(f"{place}: question {question_id!r} is not in the references; {remedy}")
        reference = references[question_id]
        try:
            scores = score_prediction(record.prediction, reference, parts)
        except DataError as error:
            raise ResultError(f"{place}: {error}; prepare the dataset again") from error
        kind = answer_type(record.prediction, reference)
        rows.append({"question_id": question_id, "doc_id": reference.doc_id, "type": kind, "scores": scores})
    if not rows:
        raise ResultError(f"{predictions}: holds no prediction; {remedy}")
    seen = {row["question_id"] for row in rows}
    if missing := [question_id for question_id in references if question_id not in seen]:
        raise ResultError(
            f"{predictions}: lacks {len(missing)} of {len(references)} questions, first {missing[0]!r}; {remedy}"
        )
    return rows
