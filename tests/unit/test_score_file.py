"""`retrotune score`: metrics and datasets by name, intervals, answers' types, and records that cannot be scored."""

import json
from pathlib import Path
from typing import Any

import pytest

from retrotune.cli import main
from retrotune.data.datasets import SPECS
from retrotune.data.scores import METRICS, STEMMED
from retrotune.errors import ConfigError, DataError
from retrotune.scoring.file import GROUPS, score_file
from retrotune.scoring.statistics import score_estimate

OSLO = {"prediction": "in Oslo", "answers": ["Oslo"]}
OPTIONS = ["A baker", "The mayor"]


def write(folder: Path, *records: Any, start: str = "") -> Path:
    file = folder / "said.jsonl"
    file.write_text(start + "".join(f"{json.dumps(record)}\n" for record in records))
    return file


def values(found: dict[str, Any]) -> dict[str, float]:
    return {name: entry["value"] for name, entry in found["metrics"].items()}


def test_the_command_prints_json_with_intervals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = [("Oslo", "a"), ("", "a"), ("the Rome", "b"), ("Rome", "b"), ("x", "c"), ("Rome", "c")]
    records = [{"prediction": one, "answers": ["oslo", "Rome"], "doc_id": doc, "question_id": str(number)}
               for number, (one, doc) in enumerate(said)]  # fmt: skip
    file = write(tmp_path, *records)
    assert main(["score", str(file), "--metric", "em"]) == 0
    found = json.loads(capsys.readouterr().out)
    entry = found["metrics"].pop("exact_match")
    assert found == {"file": str(file), "metric": "em", "scale": "0 to 100", "metrics": {}, "by_type": {}}
    right = [[100.0], [0.0], [100.0], [100.0], [0.0], [100.0]]
    estimate = score_estimate(right, [doc for _, doc in said])
    low, high = estimate.interval() or (None, None)
    assert entry["value"] == pytest.approx(400 / 6)
    assert (entry["ci_low"], entry["ci_high"]) == (low, high)
    assert (entry["n"], entry["clusters"], entry["primary"]) == (6, 3, True)


def test_without_documents_each_question_is_a_cluster(tmp_path: Path) -> None:
    file = write(tmp_path, OSLO, OSLO, {**OSLO, "prediction": "Oslo", "doc_id": None, "options": [], "types": None})
    entry = score_file(file, "exact_match")["metrics"]["exact_match"]
    assert (entry["n"], entry["clusters"]) == (3, 3)
    assert entry["value"] == pytest.approx(100 / 3)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("em", {"exact_match": 50}),
        ("f1", {"f1": (100 + 200 / 3) / 2}),
        ("contains", {"contains": 100}),
        ("accuracy", {"accuracy": 50, "parsable": 50}),
        ("triviaqa_f1", {"triviaqa_f1": (100 + 200 / 3) / 2}),
        ("nq", {"exact_match": 50, "f1": 250 / 3, "contains": 100, "exact_match_unicode": 50}),
        ("quality", {"accuracy": 50, "parsable": 50, "exact_match": 50}),
    ],
)
def test_metrics_by_name(tmp_path: Path, metric: str, expected: dict[str, float]) -> None:
    file = write(
        tmp_path,
        {"prediction": "mayor", "answers": ["The mayor"], "options": OPTIONS},
        {"prediction": "big baker", "answers": ["A baker"], "options": OPTIONS},
    )
    found = score_file(file, metric)
    assert values(found) == pytest.approx(expected, abs=1e-3)
    assert [name for name, entry in found["metrics"].items() if entry["primary"]] == [next(iter(expected))]


def test_rouge_is_of_corpus_means_with_stems(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        {"prediction": "committees two four five", "answers": ["committee two three four"]},
        {"prediction": "one", "answers": ["two", "one"]},
    )
    # 75, 33.3, 75 of the first, whose only bigram in common needs the stems; 100, 0, 100 of the second
    assert values(score_file(file, "rouge")) == pytest.approx(
        {
            "rouge_geometric_stemmed": (87.5 * 87.5 * 100 / 6) ** (1 / 3),
            "rouge_arithmetic_stemmed": (87.5 + 87.5 + 100 / 6) / 3,
            **dict(zip(STEMMED, (87.5, 100 / 6, 87.5), strict=True)),
        },
        abs=1e-3,
    )


def test_every_name_can_be_asked_for(tmp_path: Path) -> None:
    file = write(tmp_path, *[{"prediction": "B", "answers": ["The mayor"], "options": OPTIONS}] * 2)
    for name in (*GROUPS, *METRICS):
        found = score_file(file, name)
        assert tuple(found["metrics"]) == GROUPS.get(name, (name,))
    assert set(SPECS) < set(GROUPS)


def test_scores_by_the_type_of_the_best_answer(tmp_path: Path) -> None:
    both = {"answers": ["a rare corpus", "No"], "types": ["extractive", "boolean"]}
    file = write(
        tmp_path,
        *({"prediction": said, **both, "question_id": number} for number, said in enumerate(["corpus", "No", "Rome"])),
    )
    found = score_file(file, "qasper")
    assert values(found)["f1"] == pytest.approx((200 / 3 + 100) / 3, abs=1e-3)
    assert {kind: (entry["value"], entry["n"]) for kind, entry in found["by_type"].items()} == {
        "extractive": (pytest.approx(100 / 3, abs=1e-3), 2),
        "boolean": (100, 1),
    }


def test_a_byte_order_mark_blank_lines_and_empty_predictions_are_fine(tmp_path: Path) -> None:
    file = write(tmp_path, {"prediction": "", "answers": ["Oslo"]}, start="\ufeff\n")
    for name in ("em", "f1", "contains", "rouge", "narrativeqa"):
        assert set(values(score_file(file, name)).values()) == {0}
    file = write(tmp_path, {"prediction": "", "answers": ["The mayor"], "options": OPTIONS})
    assert values(score_file(file, "accuracy")) == {"accuracy": 0, "parsable": 0}


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "said.jsonl: holds no record; each line is one record such as"),
        ([OSLO, [1, 2]], r"said.jsonl:2: the record is not an object but \[1, 2\]; each line is one record such as"),
        ([{"prediction": "x"}], "said.jsonl:1: no answers; give at least one text that is right"),
        ([{**OSLO, "answers": []}], "said.jsonl:1: no answers; give at least one"),
        ([{**OSLO, "answers": None}], "said.jsonl:1: no answers"),
        ([{**OSLO, "answers": "Oslo"}], r'said.jsonl:1: answers is a single text; write a list: \["Oslo"\]'),
        ([{**OSLO, "answers": {"a": 1}}], 'said.jsonl:1: answers is {"a": 1}, not a list of texts'),
        ([{**OSLO, "answers": ["Oslo", 3]}], "said.jsonl:1: answers: number 2 is 3, not text"),
        ([{**OSLO, "answers": ["Oslo", " "]}], "said.jsonl:1: answers: number 2 is empty; leave it out"),
        ([{"answers": ["Oslo"]}], "said.jsonl:1: no prediction; where a model said nothing write an empty text"),
        ([OSLO, {**OSLO, "prediction": None}], "said.jsonl:2: prediction is null, not text"),
        ([OSLO, {**OSLO, "prediction": float("nan")}], "said.jsonl:2: prediction is NaN, not text"),
        ([{**OSLO, "prediction": 3.5}], "said.jsonl:1: prediction is 3.5, not text"),
        ([{**OSLO, "prediction": ["Oslo"]}], r'said.jsonl:1: prediction is \["Oslo"\], not text'),
        (
            [{**OSLO, "question_id": "7"}, OSLO, {**OSLO, "question_id": 7}],
            "said.jsonl:3: question '7' appears twice, first at .*said.jsonl:1",
        ),
        ([{**OSLO, "predictions": "x"}], "said.jsonl:1: unknown key 'predictions', did you mean 'prediction'?"),
        ([{**OSLO, "doc_id": "a"}, OSLO], "said.jsonl:2: no doc_id, which 1 of 2 records have; give it in all"),
        ([{**OSLO, "types": ["none"]}, OSLO], "said.jsonl:2: no types, which 1 of 2 records have; give it in all"),
        ([{**OSLO, "types": ["none", "none"]}], "said.jsonl:1: 2 types of 1 answers; give each answer its type"),
        ([{**OSLO, "doc_id": ""}], 'said.jsonl:1: doc_id is ""; it must be a text that is not empty'),
        ([{**OSLO, "question_id": True}], "said.jsonl:1: question_id is true; it must be a text"),
        ([{**OSLO, "options": ["Oslo"]}], "said.jsonl:1: 1 options; a choice has 2 to 26"),
        ([{**OSLO, "options": "Oslo"}], "said.jsonl:1: options is a single text; write a list"),
    ],
)
def test_records_that_cannot_be_scored(tmp_path: Path, records: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        score_file(write(tmp_path, *records), "em")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prediction": "x", "answers": ["x"]}\n{"prediction"', "said.jsonl:2: not valid JSON .*; each line is one"),
        ("[\n1]", "said.jsonl:1: not valid JSON .*; each line is one record"),
        ('{"prediction": "x", "answers": ["y"], "prediction": "y"}', "said.jsonl:1: key given twice .'prediction'."),
    ],
)
def test_lines_that_are_no_records(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "said.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        score_file(tmp_path / "said.jsonl", "em")


def test_accuracy_needs_options_and_a_right_one_among_them(tmp_path: Path) -> None:
    for name in ("accuracy", "parsable", "quality"):
        with pytest.raises(DataError, match=r"said.jsonl:1: no options, which (accuracy|parsable) needs"):
            score_file(write(tmp_path, OSLO), name)
    with pytest.raises(DataError, match="said.jsonl:1: answer 'Oslo' is none of the 2 options; each line"):
        score_file(write(tmp_path, {**OSLO, "options": OPTIONS}), "accuracy")


def test_no_file_and_no_metric(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(tmp_path / "none.jsonl"), "--metric", "em"]) == 1
    assert "none.jsonl: no such file; name one with a record such as" in capsys.readouterr().err
    with pytest.raises(DataError, match="cannot be opened"):
        score_file(tmp_path, "em")
    file = write(tmp_path, OSLO)
    for name, hint in (
        ("EM", "did you mean 'em'"),
        ("narative", "did you mean 'narrativeqa'"),
        ("x", "known: accuracy, "),
    ):
        with pytest.raises(ConfigError, match=rf"--metric {name}: no such metric or dataset; {hint}"):
            score_file(file, name)
    assert capsys.readouterr().out == ""
