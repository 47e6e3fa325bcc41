"""Files of cells made by hand: whole and right unless a test changes something."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retrotune.runtime.files import sha256, sha256_text, write_json, write_jsonl
from retrotune.study.cells import Cell
from retrotune.study.stages import VERSIONS

COMMIT = "c0ffee" + 34 * "0"
SOFTWARE = {
    "retrotune": "0.1.0",
    "torch": "2.13.0+cpu",
    "transformers": "5.23.0",
    "peft": None,
    "faiss": None,
    "rouge_score": None,
    "python": "3.11.7",
    "platform": "Linux-x86_64",
    "git": {"commit": COMMIT, "dirty": False},
}
FINISHED = "2026-01-02T03:04:05+00:00"
MADE = {"software": SOFTWARE, "finished": FINISHED}


def digest(name: str) -> str:
    """A sha256, another one for each name."""
    return sha256_text(name)


READ = {"examples": digest("questions"), "model": digest("model"), "neighbors": None}


def prediction(question_id: str, said: Any = "Tamo", /, **changes: Any) -> dict[str, Any]:
    """A line of predictions.jsonl."""
    line = {"question_id": question_id, "question": "Who?", "prediction": said, "text": f" {said}", "context_ids": []}
    line |= {"neighbor_ids": [], "prompt_hash": "ab", "num_prompt_tokens": 5, "num_truncated_tokens": 0}
    return {**line, **changes}


def question_scores(question_id: str, /, doc_id: str | None = None, **scores: float) -> dict[str, Any]:
    """A line of scores.jsonl."""
    return {"question_id": question_id, "doc_id": doc_id, "type": None, "scores": scores or {"f1": 50.0}}


def predicting(**changes: Any) -> dict[str, Any]:
    """What metrics.json says of a prediction."""
    cost = {"num_questions": 2, "seconds": 1.5, "prompt_tokens": 10, "generated_tokens": 4, "made": MADE}
    cost |= {"num_truncated_questions": 0, "num_truncated_tokens": 0, "peak_memory_bytes": 2**20}
    cost |= {"energy_joules": 1800.0, "num_devices": 1}
    return {**cost, "retrieval_gate": None, "device": "cpu", **changes}


def training(**changes: Any) -> dict[str, Any]:
    """What metrics.json says of a training."""
    cost = {"steps": 4, "tokens": 900, "seconds": 3.0, "peak_memory_bytes": 2**20, "num_trainable_params": 50}
    cost |= {"num_total_params": 1000, "adapter_bytes": 200, "final_loss": 1.5, "truncated": 0, "truncated_answers": 0}
    cost |= {"energy_joules": 7200.5, "num_devices": 2, "device": "cpu"}
    return {**cost, "inputs": {**READ, "examples": digest("training questions")}, "made": MADE, **changes}


def predict_record(**changes: Any) -> dict[str, Any]:
    """A predict.json."""
    model = {"num_parameters": 1000, "departures": [], "fingerprint": "f1", "params": {"version": 2}}
    params = {"version": VERSIONS["predict_cell"]}
    return {**predicting(), "model": model, "inputs": READ, "params": params, **changes}


def train_record(**changes: Any) -> dict[str, Any]:
    """A train.json."""
    return {**training(), "params": {"version": VERSIONS["finetune_cell"]}, **changes}


def metric(value: float = 50.0, primary: bool = True, **changes: Any) -> dict[str, Any]:
    """One metric of metrics.json."""
    bounds = {"ci_low": max(0.0, value - 3), "ci_high": min(100.0, value + 3)}
    return {"value": value, **bounds, "n": 2, "clusters": 2, "higher_is_better": True, "primary": primary, **changes}


def metrics_record(cell: Cell, trained: bool = False, **changes: Any) -> dict[str, Any]:
    """A metrics.json, of a cell that was trained or not."""
    stages = (["finetune_cell"] if trained else []) + ["predict_cell", "score_cell"]
    own = {name: digest(name) for name in ("predictions", "references", "scores")}
    return {
        "cell": vars(cell),
        "status": "done",
        "scale": "0 to 100",
        "model": {"num_parameters": 1000, "fingerprint": "f1", "departures": []},
        "metrics": {"f1": metric()},
        "by_type": {},
        "train": training() if trained else None,
        "predict": predicting(),
        "inputs": {**READ, **own},
        "versions": {"stages": {stage: VERSIONS[stage] for stage in stages}, **SOFTWARE},
        "finished": FINISHED,
        **changes,
    }


def write_result(
    folder: str | Path, record: Mapping[str, Any], scores: Sequence[Mapping[str, Any]] = (question_scores("q1"),)
) -> Path:
    """Write `record` as the metrics.json of a folder, and the scores.jsonl that it is made of; the former's path."""
    metrics = Path(folder) / "metrics.json"
    write_jsonl(metrics.with_name("scores.jsonl"), scores)
    inputs = {**record["inputs"], "scores": sha256(metrics.with_name("scores.jsonl"))}
    write_json(metrics, {**record, "inputs": inputs})
    return metrics
