"""Scores of a cell, made from predictions and references alone: what is kept, and input that cannot be scored."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from record_cases import READ, predict_record, predicting, prediction, train_record, training

from retrotune.data.datasets import SPECS, Example
from retrotune.errors import ConfigError, DataError, ResultError
from retrotune.preparing.examples import load_examples, with_references, write_examples, write_references
from retrotune.runtime.files import read_json, read_jsonl, sha256, write_json
from retrotune.scoring.score import score_cell
from retrotune.study.cells import Cell
from retrotune.study.records import MetricsRecord, read_metrics
from retrotune.study.stages import VERSIONS, ScoreParams

CELL = Cell("gpt-a", "lora", "nq", "bm25", 3)
EXAMPLES = [Example(f"q{number}", "Who?", ("Tamo", f"answer {number}"), doc_id=f"d{number}") for number in range(9)]
SAID = [prediction(example.question_id, "Tamo" if place % 3 else "Dana") for place, example in enumerate(EXAMPLES)]
PARAMS = ScoreParams(metrics=("exact_match", "f1"))
FACTS = {"num_parameters": 5, "departures": [], "params": {"version": 2, "family": "gpt"}, "fingerprint": "f1"}
PREDICTED = predict_record(num_questions=9, model=FACTS, params={"version": VERSIONS["predict_cell"], "batch_size": 4})


class Files:
    """A cell's files in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.predictions, self.references = root / "predictions.jsonl", root / "references.parquet"
        self.scores, self.metrics = root / "scores.jsonl", root / "metrics.json"
        self.write(SAID)
        write_references(self.references, EXAMPLES)

    def write(self, said: list[Any], **predicted: Any) -> None:
        self.predictions.write_text("".join(f"{json.dumps(line)}\n" for line in said))
        write_json(self.root / "predict.json", {**PREDICTED, **predicted})

    def score(self, params: ScoreParams = PARAMS, trained: Path | None = None) -> Any:
        summary = self.root / "predict.json"
        score_cell(params, CELL, self.predictions, summary, self.references, trained, self.scores, self.metrics)
        return read_json(self.metrics)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_a_line_per_question(files: Files) -> None:
    files.score()
    assert [record for _, record in read_jsonl(files.scores)] == [
        {
            "question_id": example.question_id,
            "doc_id": example.doc_id,
            "type": None,
            "scores": {"exact_match": 100.0 * (place % 3 > 0), "f1": 100.0 * (place % 3 > 0)},
        }
        for place, example in enumerate(EXAMPLES)
    ]


def test_metrics(files: Files) -> None:
    write_json(files.root / "train.json", train_record(steps=2))
    found = files.score(trained=files.root / "train.json")
    assert found["cell"] == {"model": "gpt-a", "method": "lora", "dataset": "nq", "retrieval": "bm25", "seed": 3}
    assert found["status"] == "done"
    assert found["train"] == training(steps=2)
    assert found["predict"] == predicting(num_questions=9)
    assert found["model"] == {"num_parameters": 5, "fingerprint": "f1", "departures": []}
    entry = found["metrics"]["exact_match"]
    assert entry["value"] == pytest.approx(100 * 6 / 9)
    assert entry["ci_low"] <= entry["value"] <= entry["ci_high"]
    assert (entry["n"], entry["clusters"]) == (9, 9)
    assert found["scale"] == "0 to 100"
    assert found["by_type"] == {}
    assert [name for name, one in found["metrics"].items() if one["primary"]] == ["exact_match"]
    made = {"predictions": files.predictions, "references": files.references, "scores": files.scores}
    assert found["inputs"] == {**READ, **{name: sha256(path) for name, path in made.items()}}
    assert torch.__version__.startswith(found["versions"]["torch"].split("+")[0])
    assert found["versions"]["stages"] == {
        name: VERSIONS[name] for name in ("finetune_cell", "predict_cell", "score_cell")
    }
    named = {"stages", "retrotune", "transformers", "peft", "faiss", "python", "platform", "git"}
    assert found["versions"].keys() >= named
    written = MetricsRecord.model_validate(found)
    assert written == read_metrics(files.metrics)
    assert abs(datetime.fromisoformat(written.finished) - datetime.now(UTC)) < timedelta(minutes=5)


def test_what_each_stage_used_stands_beside(files: Files) -> None:
    trained = {"version": VERSIONS["finetune_cell"], "recipe": {"epochs": 1.0}}
    write_json(files.root / "train.json", train_record(params=trained))
    files.score(trained=files.root / "train.json")
    assert yaml.safe_load((files.root / "config.yaml").read_text()) == {
        "finetune_cell": trained,
        "predict_cell": PREDICTED["params"],
        "score_cell": PARAMS.recorded(),
        "base_model": {"version": 2, "family": "gpt"},
    }
    files.score()
    assert "finetune_cell" not in yaml.safe_load((files.root / "config.yaml").read_text())


def test_questions_about_one_document_are_a_cluster(files: Files) -> None:
    write_references(
        files.references, [replace(example, doc_id=f"d{int(example.question_id[1]) // 3}") for example in EXAMPLES]
    )
    entry = files.score()["metrics"]["exact_match"]
    assert (entry["n"], entry["clusters"]) == (9, 3)
    # each document has two right answers of three: what differs between them is not known
    assert entry["ci_high"] - entry["ci_low"] > 50
    write_references(files.references, [replace(example, doc_id="d") for example in EXAMPLES])
    entry = files.score()["metrics"]["exact_match"]
    assert (entry["ci_low"], entry["ci_high"], entry["clusters"]) == (None, None, 1)
    write_references(files.references, [replace(example, doc_id=None) for example in EXAMPLES])
    assert files.score()["metrics"]["exact_match"]["clusters"] == 9, "in the open domain each question is its own"


def answered(
    files: Files, said: list[tuple[str, tuple[str, ...], tuple[str, ...]]], options: tuple[str, ...] = ()
) -> None:
    """Files of a cell with these predictions, answers and their types."""
    examples = [
        Example(f"q{number}", "Who?", answers, f"d{number}", options, types=types)
        for number, (_, answers, types) in enumerate(said)
    ]
    files.write([prediction(f"q{number}", text) for number, (text, *_) in enumerate(said)])
    write_references(files.references, examples)


def test_qaspers_scores_by_the_type_of_the_best_annotator(files: Files) -> None:
    """The type of a question's answer depends on what was predicted; the first of equally good annotators counts."""
    both = ("a rare corpus", "No"), ("extractive", "boolean")
    answered(
        files,
        [
            ("corpus", *both),  # F1 of 1 token in 2: 2/3, extractive
            ("No", *both),  # 1, boolean
            ("Rome", *both),  # 0 from either: the first, extractive
            ("No", ("No", "No"), ("abstractive", "boolean")),  # 1 from both: the first
            ("Oslo", ("Unanswerable",), ("none",)),
        ],
    )  # fmt: skip
    found = files.score(ScoreParams(metrics=SPECS["qasper"].metrics))
    assert found["metrics"]["f1"]["value"] == pytest.approx((200 / 3 + 100 + 0 + 100 + 0) / 5, abs=1e-3)
    values = {kind: (entry["value"], entry["n"]) for kind, entry in found["by_type"].items()}
    assert values == {
        "extractive": (pytest.approx(100 / 3, abs=1e-3), 2),
        "boolean": (100, 1),
        "abstractive": (100, 1),
        "none": (0, 1),
    }
    rows = [record for _, record in read_jsonl(files.scores)]
    assert [row["type"] for row in rows] == ["extractive", "boolean", "extractive", "abstractive", "none"]


def test_quality_scores_its_hard_subset_apart(files: Files) -> None:
    options = ("a baker", "the mayor")
    said = [("A", "hard"), ("B", "hard"), ("the mayor", "easy"), ("nobody", "hard"), ("(B)", "easy")]
    answered(files, [(text, ("the mayor",), (kind,)) for text, kind in said], options)
    found = files.score(ScoreParams(metrics=SPECS["quality"].metrics))
    assert found["metrics"]["accuracy"]["value"] == 60
    assert found["metrics"]["parsable"]["value"] == 80
    assert {kind: entry["value"] for kind, entry in found["by_type"].items()} == {
        "hard": pytest.approx(100 / 3, abs=1e-3),
        "easy": 100,
    }


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (SAID[:-1], "lacks 1 of 9 questions, first 'q8'; delete it and predict the cell again"),
        ([*SAID[:-1], SAID[0]], "predictions.jsonl:9: question 'q0' appears twice"),
        ([*SAID[:-1], {**SAID[-1], "question_id": "q77"}], "jsonl:9: question 'q77' is not in the references"),
        ([*SAID, {**SAID[0], "question_id": None}], "predictions.jsonl:10: question_id is None, but should be a valid"),
        ([*SAID, ["q0", "Tamo"]], "predictions.jsonl:10: .* should be an object"),
        ([prediction("q0", None), *SAID[1:]], 'jsonl:1: question "q0": prediction is None, but should be a valid'),
        ([prediction("q0", float("nan")), *SAID[1:]], 'jsonl:1: question "q0": prediction is nan, but should be a'),
        ([], "holds no prediction"),
    ],
)  # fmt: skip
def test_predictions_that_are_not_whole_are_refused(files: Files, said: list[Any], message: str) -> None:
    files.write(said)
    with pytest.raises(ResultError, match=message):
        files.score()
    assert not files.metrics.exists()
    assert not files.scores.exists()


def test_a_line_that_was_cut_is_named(files: Files) -> None:
    files.predictions.write_bytes(files.predictions.read_bytes()[:-20])
    with pytest.raises(ResultError, match='predictions.jsonl:9: question "q8": not valid JSON'):
        files.score()
    assert not files.metrics.exists()


@pytest.mark.parametrize("name", ["predict.json", "train.json"])
def test_what_another_version_predicted_or_trained_is_not_scored(files: Files, name: str) -> None:
    stage, record = ("predict_cell", PREDICTED) if name == "predict.json" else ("finetune_cell", train_record())
    trained = files.root / "train.json"
    write_json(trained, train_record())
    for change, said in ((1, "made by a later retrotune"), (-1, f"made by {stage} version")):
        write_json(files.root / name, {**record, "params": {"version": VERSIONS[stage] + change}})
        with pytest.raises(ResultError, match=f"{name}: {said}"):
            files.score(trained=trained)
    assert not files.metrics.exists()
    assert not files.scores.exists()


def test_references_that_miss_a_question_or_its_answers_are_refused(files: Files) -> None:
    write_references(files.references, EXAMPLES[1:])
    with pytest.raises(ResultError, match="predictions.jsonl:1: question 'q0' is not in the references"):
        files.score()
    write_references(files.references, [replace(EXAMPLES[0], answers=()), *EXAMPLES[1:]])
    with pytest.raises(
        ResultError, match="predictions.jsonl:1: question 'q0' has no answers.*; prepare the dataset again"
    ):
        files.score()
    files.references.unlink()
    with pytest.raises(DataError, match="references.parquet: no such file"):
        files.score()
    assert not files.metrics.exists()


def test_measures_of_retrieval_need_the_references_too(files: Files) -> None:
    write_examples(files.root / "test.parquet", EXAMPLES, with_answer=False)
    write_references(files.references, EXAMPLES[1:])
    with pytest.raises(DataError, match="no references for 1 of 9 questions, first 'q0'"):
        with_references(load_examples(files.root / "test.parquet"), files.references)


def test_a_metric_that_does_not_apply_is_refused(files: Files) -> None:
    with pytest.raises(ResultError, match="question 'q0' has no options, which accuracy needs"):
        files.score(ScoreParams(metrics=("accuracy",)))
    assert not files.metrics.exists()


@pytest.mark.parametrize("metric", ["", "multiple_choice", "F1"])
def test_a_dataset_without_a_known_metric_is_refused_when_it_is_declared(metric: str) -> None:
    with pytest.raises(ConfigError, match=rf"dataset nq: metric '{metric}' is unknown; known: exact_match, "):
        replace(SPECS["nq"], metrics=("f1", metric))
    with pytest.raises(ConfigError, match="dataset nq: no metric; known: exact_match, "):
        replace(SPECS["nq"], metrics=())


def test_an_empty_prediction_is_scored(files: Files) -> None:
    files.write([{**SAID[0], "prediction": ""}, *SAID[1:]])
    assert files.score()["metrics"]["exact_match"]["value"] == pytest.approx(100 * 6 / 9)


def test_a_gate_is_stated_beside_the_result(files: Files) -> None:
    for gate, stated in (
        (None, []),
        (1.0, []),
        (0.0, ["gpt-a has its neighbor encoder off (retrieval_gate 0)"]),
        (0.5, ["gpt-a scales what it reads from neighbors (retrieval_gate 0.5)"]),
    ):
        files.write(SAID, retrieval_gate=gate)
        assert files.score()["model"]["departures"] == stated


def test_scores_are_the_same_to_the_byte(files: Files) -> None:
    first = files.score()
    scores = files.scores.read_bytes()
    assert files.score()["metrics"] == first["metrics"]
    assert files.scores.read_bytes() == scores
    assert json.loads(scores.splitlines()[0])["scores"]["exact_match"] == 0
