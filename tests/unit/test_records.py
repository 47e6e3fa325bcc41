"""Files of a cell against their schemas: what is whole is read, and each fault is named with its place and remedy."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_cases import (
    metric,
    metrics_record,
    predict_record,
    prediction,
    question_scores,
    train_record,
    training,
)

from retrotune.data.scores import METRICS
from retrotune.documentation import file_tables
from retrotune.errors import ResultError
from retrotune.runtime.files import sha256
from retrotune.study.cells import Cell
from retrotune.study.records import (
    FILES,
    MetricsRecord,
    OutdatedError,
    PredictRecord,
    Record,
    TrainRecord,
    made,
    read_metrics,
    read_predictions,
    read_record,
    read_scores,
)
from retrotune.study.stages import VERSIONS

CELL = Cell("gpt-a", "lora", "nq", "bm25", 3)


def write_lines(path: Path, lines: list[Any]) -> Path:
    """As a careless program writes them: NaN and infinite numbers too."""
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def write_whole(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


# lines -----------------------------------------------------------------------------------------------------------
def test_predictions_are_read_in_order_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    first, second = prediction("q1"), prediction("q2", "", text=" \n", context_ids=["p1", "p2"])
    path.write_text(f"{json.dumps(first)}\n\n{json.dumps(second)}")
    found = list(read_predictions(path))
    assert [number for number, _ in found] == [1, 3]
    assert [line.model_dump(exclude_unset=True) for _, line in found] == [first, second]
    assert found[1][1].prediction == "", "a model may have said nothing"


PREDICTION_FAULTS = [
    ({"prediction": None}, 'question "q2": prediction is None, but should be a valid string'),
    ({"prediction": float("nan")}, 'question "q2": prediction is nan, but should be a valid string'),
    ({"prediction": 3}, "prediction is 3, but should be a valid string"),
    ({"question_id": 7}, "question_id is 7, but should be a valid string"),
    ({"context_ids": "p1"}, "context_ids is 'p1', but should be a valid array"),
    ({"context_ids": ["p1", 2]}, "context_ids.1 is 2, but should be a valid string"),
    ({"num_prompt_tokens": True}, "num_prompt_tokens is True, but should be a valid integer"),
    ({"num_prompt_tokens": "5"}, "num_prompt_tokens is '5', but should be a valid integer"),
    ({"num_prompt_tokens": -1}, "num_prompt_tokens is -1, but should be greater than or equal to 0"),
    ({"num_prompt_tokens": float("inf")}, "num_prompt_tokens is inf, but should be a"),
    ({"votes": 1}, 'question "q2": has the key votes, which is not known'),
    ({"text": 100 * "x", "votes": 1, "hash": 2}, "has the key votes, which is not known (and 1 more)"),
    ({"text": [100 * "x"]}, f"text is ['{58 * 'x'}..., but should be a valid string"),
]


@pytest.mark.parametrize(("changes", "message"), PREDICTION_FAULTS)
def test_a_prediction_that_is_none_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_lines(tmp_path / "predictions.jsonl", [prediction("q1"), prediction("q2", **changes)])
    with pytest.raises(ResultError) as caught:
        list(read_predictions(path))
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)
    assert str(caught.value).endswith("; delete it and predict the cell again")


@pytest.mark.parametrize("key", list(prediction("q")))
def test_a_prediction_without_a_key_is_named(tmp_path: Path, key: str) -> None:
    line = prediction("q1")
    del line[key]
    path = write_lines(tmp_path / "predictions.jsonl", [line])
    with pytest.raises(ResultError, match=f"predictions.jsonl:1: .*lacks the key {key};"):
        list(read_predictions(path))


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (b"[1, 2]", "predictions.jsonl:2: [1, 2] should be an object"),
        (b"null", "predictions.jsonl:2: None should be an object"),
        (b'{"question_id": "q2", "predic', 'predictions.jsonl:2: question "q2": not valid JSON (control character'),
        (b'{"question_id": "\xff"}', "predictions.jsonl:2: question \"\ufffd\": not valid JSON (invalid unicode"),
        (b'{"question_id": NAN}', "predictions.jsonl:2: not valid JSON (expected ident)"),
        (json.dumps(prediction("q1")).encode(), "predictions.jsonl:2: question 'q1' appears twice"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_record_is_named(tmp_path: Path, second: bytes, message: str) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(json.dumps(prediction("q1")).encode() + b"\n" + second + b"\n")
    with pytest.raises(ResultError) as caught:
        list(read_predictions(path))
    assert message in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"predictions.jsonl: cannot be read \(No such file or directory\)"):
        list(read_predictions(tmp_path / "predictions.jsonl"))
    with pytest.raises(ResultError, match=r"scores.jsonl: cannot be read .*which scores the cell again"):
        read_scores(tmp_path / "scores.jsonl")
    with pytest.raises(ResultError, match="metrics.json: no such file; delete it"):
        read_metrics(tmp_path / "metrics.json")


def test_scores_are_read(tmp_path: Path) -> None:
    lines = [question_scores("q1", "d1", f1=0, exact_match=100.0), question_scores("q2", f1=33.3, exact_match=0.0)]
    path = write_lines(tmp_path / "scores.jsonl", [lines[0], {**lines[1], "type": "boolean"}])
    found = read_scores(path, sha256(path))
    assert [line.scores for line in found] == [line["scores"] for line in lines]
    assert [(line.question_id, line.doc_id, line.type) for line in found] == [
        ("q1", "d1", None),
        ("q2", None, "boolean"),
    ]
    with pytest.raises(ResultError, match=r"scores.jsonl: not the scores that metrics.json beside it was made of"):
        read_scores(path, 64 * "0")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": {"f1": float("nan")}}, "scores.f1 is nan, but should be a finite number"),
        ({"scores": {"f1": float("inf")}}, "scores.f1 is inf, but should be a finite number"),
        ({"scores": {"f1": -0.5}}, "scores.f1 is -0.5, but should be greater than or equal to 0"),
        ({"scores": {"f1": 100.5}}, "scores.f1 is 100.5, but should be less than or equal to 100"),
        ({"scores": {"f1": "50"}}, "scores.f1 is '50', but should be a valid number"),
        ({"scores": {"f1": None}}, "scores.f1 is None, but should be a valid number"),
        ({"scores": {"f1": True}}, "scores.f1 is True, but should be a valid number"),
        ({"scores": [50.0]}, "scores is [50.0], but should be an object"),
        ({"doc_id": 3}, "doc_id is 3, but should be a valid string"),
        ({"question_id": "q1"}, "question 'q1' appears twice"),
        ({"votes": 1}, "has the key votes, which is not known"),
    ],
)
def test_scores_that_are_none_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_lines(tmp_path / "scores.jsonl", [question_scores("q1"), {**question_scores("q2"), **changes}])
    with pytest.raises(ResultError) as caught:
        read_scores(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)
    assert str(caught.value).endswith("; delete it and run snakemake, which scores the cell again")


def test_a_number_beyond_all_floats_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    path.write_text('{"question_id": "q1", "doc_id": null, "type": null, "scores": {"f1": 1e999}}\n')
    with pytest.raises(ResultError, match="scores.jsonl:1: .*scores.f1 is inf"):
        read_scores(path)


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        st.dictionaries(st.sampled_from(sorted(METRICS)), st.floats(0, 100), max_size=4),
        max_size=6,
    )
)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: dict[str, dict[str, float]]) -> None:
    """Whatever questions are called: with quotes, line separators and other signs in their ids."""
    lines = [{**question_scores(question), "scores": scores} for question, scores in rows.items()]
    path = tmp_path_factory.mktemp("scores") / "scores.jsonl"
    path.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines), encoding="utf-8")
    assert [line.model_dump() for line in read_scores(path)] == lines


def test_many_lines_take_no_time(tmp_path: Path) -> None:
    """600,000 take 4.3 s of a core; 20,000 get ten times their share, for machines that are slow or busy."""
    scores = dict.fromkeys(list(METRICS)[:8], 33.3)
    path = write_lines(tmp_path / "scores.jsonl", [question_scores(f"q{place}", **scores) for place in range(20_000)])
    begun = time.process_time()
    assert len(read_scores(path, sha256(path))) == 20_000
    assert time.process_time() - begun < 1.5


# whole files -----------------------------------------------------------------------------------------------------
WHOLE: dict[type, dict[str, Any]] = {
    MetricsRecord: metrics_record(CELL, trained=True),
    PredictRecord: predict_record(),
    TrainRecord: train_record(),
}


@pytest.mark.parametrize(("kind", "values"), WHOLE.items(), ids=lambda value: getattr(value, "name", ""))
def test_whole_files_are_read(tmp_path: Path, kind: Any, values: dict[str, Any]) -> None:
    path = write_whole(tmp_path / kind.name, values)
    assert read_record(kind, path).model_dump(exclude_unset=True) == values


@pytest.mark.parametrize("kind", list(WHOLE))
def test_each_key_is_needed_but_those_of_later_versions(tmp_path: Path, kind: Any) -> None:
    optional = {"made", "problem", "energy_joules", "num_devices"} | ({"device"} if kind is TrainRecord else set())
    for key in WHOLE[kind].keys() - optional:
        without = {name: value for name, value in WHOLE[kind].items() if name != key}
        with pytest.raises(ResultError, match=f"{kind.name}: (lacks the key {key}|no {kind.name})"):
            read_record(kind, write_whole(tmp_path / kind.name, without))
    for key in WHOLE[kind].keys() & optional:
        without = {name: value for name, value in WHOLE[kind].items() if name != key}
        assert getattr(read_record(kind, write_whole(tmp_path / kind.name, without)), key) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"votes": 1}, "has the key votes, which is not known; delete it and run snakemake, which scores the cell"),
        ({"status": "well"}, "status is 'well', but should be 'done' or 'failed'"),
        ({"metrics": {"f1": metric(value=101.0)}}, "metrics.f1.value is 101.0, but should be less than or equal"),
        ({"metrics": {"f1": metric(n=0)}}, "metrics.f1.n is 0, but should be greater than or equal to 1"),
        ({"metrics": {"f1": metric(ci_low="low")}}, "metrics.f1.ci_low is 'low', but should be a valid number"),
        ({"by_type": {"none": {"value": 3.0}}}, "lacks the key by_type.none.ci_low (and 5 more)"),
        ({"train": training(steps=0)}, "train.steps is 0, but should be greater"),
        ({"inputs": {**WHOLE[MetricsRecord]["inputs"], "scores": "abc"}}, "inputs.scores is 'abc', but"),
        ({"cell": {**vars(CELL), "seed": "3"}}, "cell.seed is '3', but should be a valid integer"),
        ({"versions": {}}, "no metrics.json, as it says no version of its stage"),
        ({"versions": None}, "no metrics.json, as it says no version of its stage"),
    ],
)
def test_a_result_that_is_none_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_whole(tmp_path / "metrics.json", {**WHOLE[MetricsRecord], **changes})
    with pytest.raises(ResultError) as caught:
        read_metrics(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"done"', "{}"])
def test_what_is_no_record_at_all_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(text)
    with pytest.raises(ResultError, match=r"metrics.json(:1)?: .*; delete it and run snakemake"):
        read_metrics(path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_numbers_that_are_not_finite_are_refused_with_their_line(tmp_path: Path, number: str) -> None:
    path = tmp_path / "metrics.json"
    said = {**WHOLE[MetricsRecord], "problem": f"the loss is {number}"}
    text = json.dumps({**said, "finished": "HERE"}, indent=2).replace('"HERE"', number)
    path.write_text(text)
    line = text.splitlines().index(f'  "finished": {number},') + 1
    with pytest.raises(ResultError, match=f"metrics.json:{line}: the number {number} is not finite"):
        read_metrics(path)


# versions --------------------------------------------------------------------------------------------------------
def of_version(kind: Any, stage: str, version: Any) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(WHOLE[kind]))
    if kind is MetricsRecord:
        values["versions"]["stages"][stage] = version
    else:
        values["params"]["version"] = version
    return values


STAGES_OF = [
    *((MetricsRecord, stage) for stage in ("finetune_cell", "predict_cell", "score_cell")),
    (PredictRecord, "predict_cell"),
    (TrainRecord, "finetune_cell"),
]


@pytest.mark.parametrize(("kind", "stage"), STAGES_OF)
def test_a_later_version_is_refused_and_an_earlier_one_is_outdated(tmp_path: Path, kind: Any, stage: str) -> None:
    known = VERSIONS[stage]
    # whatever else a later version writes: the message is about the version
    later = {**of_version(kind, stage, known + 3), "votes": 1}
    with pytest.raises(ResultError) as caught:
        read_record(kind, write_whole(tmp_path / kind.name, later))
    assert not isinstance(caught.value, OutdatedError)
    assert f"made by a later retrotune: {stage} version {known + 3}, this one knows {known}; update" in str(
        caught.value
    )
    earlier = of_version(kind, stage, known - 1)
    del earlier["inputs"]
    with pytest.raises(OutdatedError, match=f"made by {stage} version {known - 1}, and this retrotune has version"):
        read_record(kind, write_whole(tmp_path / kind.name, earlier))
    for wrong in (str(known), float(known), True, None, [known]):
        with pytest.raises(ResultError, match=rf"{stage} version .* is no number"):
            read_record(kind, write_whole(tmp_path / kind.name, of_version(kind, stage, wrong)))


def test_stages_that_a_later_code_has_beside_these_do_not_matter(tmp_path: Path) -> None:
    values = of_version(MetricsRecord, "judge_cell", 4)
    assert read_metrics(write_whole(tmp_path / "metrics.json", values)).makers.keys() == {
        "finetune_cell", "predict_cell", "score_cell",
    }  # fmt: skip


def test_by_what_a_result_was_made(tmp_path: Path) -> None:
    values = metrics_record(CELL, trained=True)
    values["train"]["made"] = None
    found = read_metrics(write_whole(tmp_path / "metrics.json", values)).makers
    assert found["finetune_cell"] is None, "an earlier version did not record it"
    assert [found[stage].software.torch for stage in ("predict_cell", "score_cell")] == 2 * ["2.13.0+cpu"]
    assert "finetune_cell" not in read_metrics(write_whole(tmp_path / "metrics.json", metrics_record(CELL))).makers


def test_what_this_process_records_fits_the_schema(tmp_path: Path) -> None:
    found = read_record(PredictRecord, write_whole(tmp_path / "predict.json", predict_record(made=made())))
    assert found.made is not None
    assert found.made.finished.endswith("+00:00")


# docs ------------------------------------------------------------------------------------------------------------
def test_each_key_is_documented() -> None:
    tables = file_tables()
    kinds = [FILES, Record.__subclasses__()]
    assert all(kinds)
    for kind in FILES:
        assert f"\n## {kind.name}\n" in f"\n{tables}"
        for key, field in kind.model_fields.items():
            assert field.description, f"{kind.name}: {key}"
            assert f"| `{key}` |" in tables
    rows = [line for line in tables.splitlines() if line.startswith("| `")]
    assert not [row for row in rows if row.endswith("|  |")], "a key without a meaning"
    named = {line.removeprefix("### ") for line in tables.splitlines() if line.startswith("### ")}
    assert {"MetricValue", "Versions", "GitState", "ReadFiles", "Training"} <= named
