"""A cell's `metrics.json`: its predictions' scores brought together, with all that is needed to doubt them."""

import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from retrotune import __version__
from retrotune.cells import ResolvedCell
from retrotune.datasets import get_spec
from retrotune.errors import ResultError
from retrotune.evaluation import ANSWERS
from retrotune.evaluation.statistics import bootstrap_interval
from retrotune.files import read_jsonl, read_result, sha256, write_json, write_text
from retrotune.log import logger
from retrotune.stages import STAGE_VERSIONS

DISTRIBUTIONS = {
    "torch": ("torch",),
    "transformers": ("transformers",),
    "peft": ("peft",),
    "faiss": ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12", "faiss-gpu-cu11", "faiss"),
    "rouge_score": ("rouge-score",),
}
"""Packages whose version a result records, and the distributions they may come from."""


def score_cell(
    resolved: ResolvedCell,
    predictions: str | Path,
    predict_json: str | Path,
    train_json: str | Path | None,
    out: str | Path,
    out_config: str | Path,
    work_dir: str | Path,
) -> None:
    """Aggregate a cell's per-question scores into `metrics.json`, the proof that the cell is done.

    The resolved configuration goes to `out_config` as YAML first.
    `train_json` is None for zeroshot. Values are means over questions, 0 to 100, with 95 % bootstrap intervals. What
    prediction says of the base model and of the files that it read (their sha256) is taken over; what it keeps in
    `work_dir` is removed. Raises `ResultError`
    if the predictions are empty, incomplete, or do not hold the primary metric.
    """
    metric = get_spec(resolved.dataset_entry.reader).metric
    scores = _read_scores(predictions, metric)
    predicted = read_result(predict_json)
    model, inputs = predicted.pop("model"), predicted.pop("inputs")
    wanted, found = predicted["num_questions"], len(next(iter(scores.values())))
    if wanted != found:
        raise ResultError(f"{predictions}: holds {found} of {wanted} questions; delete it and predict the cell again")
    write_text(out_config, yaml.safe_dump(resolved.model_dump(mode="json"), sort_keys=False))
    write_json(
        out,
        {
            "cell": resolved.model_dump(include={"model", "method", "dataset", "retrieval", "seed"}),
            "status": "done",
            "scale": "0 to 100",
            "model": {
                "family": resolved.family,
                "size": resolved.size,
                "instruct": resolved.model_entry.instruct,
                "num_parameters": model["num_parameters"],
                "departures": model["departures"] + _gate_departure(resolved.model, predicted),
                **({"trust_remote_code": True} if model.get("trust_remote_code") else {}),
            },
            "metrics": {
                name: summarize(values, resolved.evaluation.bootstrap_samples, primary=name == metric)
                for name, values in scores.items()
            },
            "train": None if train_json is None else read_result(train_json),
            "predict": predicted,
            "inputs": {**inputs, "predictions": sha256(predictions)},
            "versions": versions(),
        },
    )
    (Path(work_dir) / ANSWERS).unlink(missing_ok=True)
    value = sum(scores[metric]) / found
    logger.info("%s: %s %.2f over %d questions", resolved.cell.name, metric, value, found)


def summarize(values: list[float], samples: int, primary: bool) -> dict[str, Any]:
    """One metric's entry: mean, interval, number of questions, and what the number means."""
    interval = bootstrap_interval(values, samples)
    low, high = interval if interval else (None, None)
    return {
        "value": sum(values) / len(values),
        "ci_low": low,
        "ci_high": high,
        "n": len(values),
        "higher_is_better": True,
        "primary": primary,
    }


def _gate_departure(model: str, predicted: Mapping[str, Any]) -> list[str]:
    """What a gate other than 1 means; under the model's name, as others of its family have another one."""
    gate = predicted.get("retrieval_gate")
    if gate is None or gate == 1:
        return []
    if gate == 0:
        return [f"{model} has its neighbor encoder off (retrieval_gate 0)"]
    return [f"{model} scales what it reads from neighbors (retrieval_gate {gate:g})"]


def _read_scores(predictions: str | Path, metric: str) -> dict[str, list[float]]:
    """Scores per metric in the order of the questions."""
    scores: dict[str, list[float]] = {}
    seen: set[str] = set()
    remedy = "delete it and predict the cell again"
    for line, record in read_jsonl(predictions):
        question_id, found = record["question_id"], record["scores"]
        if question_id in seen:
            raise ResultError(f"{predictions}:{line}: question {question_id!r} appears twice; {remedy}")
        if metric not in found or (scores and found.keys() != scores.keys()):
            raise ResultError(f"{predictions}:{line}: unexpected scores {sorted(found)}, wanted {metric}; {remedy}")
        seen.add(question_id)
        for name, value in found.items():
            scores.setdefault(name, []).append(value)
    if not scores:
        raise ResultError(f"{predictions}: holds no prediction; {remedy}")
    return scores


def versions() -> dict[str, Any]:
    """Versions of stages, packages and the machine; null for what is not installed or not known."""
    return {
        "stages": dict(STAGE_VERSIONS),
        "retrotune": __version__,
        **{name: _installed(distributions) for name, distributions in DISTRIBUTIONS.items()},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git": _git_state(),
    }


def _installed(distributions: tuple[str, ...]) -> str | None:
    for distribution in distributions:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _git_state() -> dict[str, Any] | None:
    """Commit and dirtiness of the checkout that tracks this file; None outside of one or without git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)  # noqa: S603 (no input)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # not a checkout that merely surrounds an installation
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None
