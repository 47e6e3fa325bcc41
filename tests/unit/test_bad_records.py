"""Raw files with faults: every reader stops with file and line, or counts what it leaves out, and never breaks."""

import copy
import csv
import gzip
import io
import json
import tempfile
from pathlib import Path

import pytest
from dataset_cases import CASES, SPLITS, prepare_split, prepared_manifest, records_of, serialize, table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrotune.data.corpora.json_places import JsonPlaces
from retrotune.data.corpora.records import BadRecords, need, read_json_document
from retrotune.data.datasets import get_spec
from retrotune.errors import DataError

DOCUMENT_CASES = [name for name, case in CASES.items() if not get_spec(case.reader).open_domain]


def prepare(case, folder, skip=False):
    """The test questions and how many bad records the manifest of each split counts."""
    out, values = folder / "out", {"layout": case.layout, "path": "raw", "skip_bad_records": skip}
    found = {split: prepare_split(folder, case.reader, split, out, **values) for split in SPLITS}
    return found["test"], {split: prepared_manifest(out, split)["bad_records"]["skipped"] for split in SPLITS}


def check_fault(case, folder, place, *messages):
    """The fault is reported at `place`; skipped, it is counted once and the other record is kept."""
    with pytest.raises(DataError) as error:
        prepare(case, folder)
    for part in (place, *messages):
        assert part in str(error.value)
    examples, skipped = prepare(case, folder, skip=True)
    assert len(examples) == 1
    assert skipped["test"] == 1
    first = prepared_manifest(folder / "out", "test")["bad_records"]["first_skipped"]
    assert place in first[0]


def last_line(case):
    """Line of the second test record."""
    return 5 if case.form == "csv" else case.offset + 1


@pytest.mark.parametrize("name", CASES)
def test_a_record_without_answers(tmp_path, name):
    case, records = CASES[name], records_of(CASES[name])
    case.no_answers(records["test"][1])
    case.write(tmp_path / "raw", records)
    check_fault(case, tmp_path, f"{tmp_path / 'raw' / case.test}:{last_line(case)}", "no answers")


@pytest.mark.parametrize("name", DOCUMENT_CASES)
def test_an_empty_document(tmp_path, name):
    case, records = CASES[name], records_of(CASES[name])
    if case.no_document is not None:
        case.no_document(records["test"][1])
    case.write(tmp_path / "raw", records)
    place = f"{tmp_path / 'raw' / case.test}:{last_line(case)}"
    if case.form == "csv":
        (tmp_path / "raw" / "tmp" / "test1.content").write_text(" \n")
        place = f"{place}, story {tmp_path / 'raw' / 'tmp' / 'test1.content'}"
    check_fault(case, tmp_path, place, "empty document")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("fault", ["truncated", "not UTF-8"])
def test_a_damaged_file(tmp_path, name, fault):
    case = CASES[name]
    case.write(tmp_path / "raw", records_of(case))
    file = tmp_path / "raw" / case.test
    whole = file.read_bytes()
    at = whole.rindex(b"test1") - 4  # before the last field of a csv row
    file.write_bytes(whole[:at] if fault == "truncated" else whole[:at] + b"\xff" + whole[at:])
    place = f"{file}:{last_line(case)}"
    if case.form in ("lines", "csv"):
        check_fault(case, tmp_path, place)
        return
    for skip in (False, True):  # one value: what is missing cannot be counted
        with pytest.raises(DataError) as error:
            prepare(case, tmp_path, skip)
        assert place in str(error.value)
    assert not list(tmp_path.glob("out/*"))


def test_a_compressed_file(tmp_path):
    case, records = CASES["nq-dpr"], records_of(CASES["nq-dpr"])
    case.no_answers(records["test"][1])
    case.write(tmp_path / "raw", records)
    plain = tmp_path / "raw" / case.test
    file = plain.with_name(f"{plain.name}.gz")
    file.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    check_fault(case, tmp_path, f"{file}:3 record 1", "no answers")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"dev\.json\.gz: truncated or damaged archive"):
        prepare(case, tmp_path, skip=True)


@pytest.mark.parametrize("bad", [[], "text", None, 5, {"id": ["x"]}])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.form != "csv"])
def test_a_record_of_another_kind(tmp_path, name, bad):
    case, records = CASES[name], records_of(CASES[name])
    records["test"].insert(0, bad)
    records["test"].pop()
    case.write(tmp_path / "raw", records)
    check_fault(case, tmp_path, f"{tmp_path / 'raw' / case.test}:{case.offset}")


@pytest.mark.parametrize("name", ["triviaqa", "qasper", "nq-dpr", "quality"])
def test_half_a_surrogate_pair(tmp_path, name):
    case, records = CASES[name], records_of(CASES[name])
    records["test"][1] = json.loads(json.dumps(records["test"][1]).replace("Where is", "W \\ud800").replace("ere", ""))
    case.write(tmp_path / "raw", records)
    if name == "nq-dpr":
        records["test"][1]["answers"] = ["\udfff"]
        case.write(tmp_path / "raw", records)
    check_fault(case, tmp_path, f"{tmp_path / 'raw' / case.test}:{last_line(case)}", "half a surrogate pair")


def test_half_a_surrogate_pair_in_an_id_can_be_reported_and_counted(tmp_path):
    case, records = CASES["quality"], records_of(CASES["quality"])
    records["test"][1]["article_id"] = "\ud800"
    case.write(tmp_path / "raw", records)
    check_fault(case, tmp_path, "dev:2", "\\ud800")


@pytest.mark.parametrize(("name", "key"), [("qasper", "question_id"), ("quality", "question_unique_id")])
def test_an_id_used_twice_is_named_with_both_places(tmp_path, name, key):
    case, records = CASES[name], records_of(CASES[name])
    questions = "qas" if name == "qasper" else "questions"
    records["test"][1][questions][0][key] = records["test"][0][questions][0][key]
    case.write(tmp_path / "raw", records)
    file = tmp_path / "raw" / case.test
    first = f"first at {file}:{case.offset}"
    check_fault(case, tmp_path, f"{file}:{last_line(case)}", "used twice ('qtest0'", first)


@pytest.mark.parametrize("name", ["qmsum", "qasper-scrolls"])
@pytest.mark.parametrize("first", ["without answers", "malformed", "not JSON"])
def test_a_bad_first_record_does_not_change_the_test_split(tmp_path, name, first):
    case = CASES[name]
    case.write(tmp_path / "raw", records_of(case))
    other, file = ("val.jsonl", "test.jsonl") if name == "qmsum" else ("validation.jsonl", "test.jsonl")
    good = (tmp_path / "raw" / case.test).read_text()
    raw = case.record("first")
    case.no_answers(raw)
    bad = {"without answers": json.dumps(raw), "malformed": '{"general_query_list": [5]}', "not JSON": "{"}[first]
    (tmp_path / "raw" / other).write_text(good)
    (tmp_path / "raw" / file).write_text(f"{bad}\n{good}")
    with pytest.raises(DataError, match="test.jsonl:1"):
        prepare(case, tmp_path)
    assert prepare(case, tmp_path, skip=True)[1]["test"] == 1
    assert prepared_manifest(tmp_path / "out", "test")["raw_split"] == "test"


@pytest.mark.parametrize("name", ["qmsum", "qasper-scrolls"])
def test_a_split_without_any_answer_is_passed_over(tmp_path, name):
    case, records = CASES[name], records_of(CASES[name])
    case.write(tmp_path / "raw", records)
    good = (tmp_path / "raw" / case.test).read_text()
    for raw in records["test"]:
        case.no_answers(raw)
    withheld = "[]\n" + serialize("lines", "test", records["test"]) + "{\n"
    (tmp_path / "raw" / "test.jsonl").write_text(withheld)
    other = "val" if name == "qmsum" else "validation"
    (tmp_path / "raw" / f"{other}.jsonl").write_text(good)
    assert len(prepare(case, tmp_path)[0]) == 2
    assert prepared_manifest(tmp_path / "out", "test")["raw_split"] == other
    (tmp_path / "raw" / f"{other}.jsonl").unlink()
    with pytest.raises(DataError, match=r"test\.jsonl has no test questions with answers"):
        prepare(case, tmp_path)
    (tmp_path / "raw" / "test.jsonl").write_text('[]\n"x"\n')
    with pytest.raises(DataError, match=r"test\.jsonl:1"):
        prepare(case, tmp_path)


def test_what_no_reader_thought_of_is_a_bad_record_too():
    bad = BadRecords(skip=True)
    for fault in (AttributeError("a"), IndexError("b"), KeyError("c"), TypeError("d")):
        with bad.at("file:1"):
            raise fault
    assert bad.summary()["reasons"] == {"unexpected structure": 4}
    with pytest.raises(DataError, match=r"file:2: unexpected structure \(TypeError"), BadRecords().at("file:2"):
        len(5)
    with pytest.raises(OSError, match="disk"), bad.at("file:3"):
        raise OSError("disk")


JUNK = [
    None,
    True,
    0,
    -1,
    2.5,
    10**400,
    "",
    " ",
    "\ud800",
    "x",
    "\u0000",
    [],
    {},
    [None],
    [[]],
    ["", "\udc00"],
    {"a": 1},
]
CELLS = ["", " ", '"', "\n", "x", "../x", "\x00", "train", "test", "a" * 300]


def nodes(value, steps=()):
    """Steps to every part of a JSON value, itself included."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [steps, *(deeper for key, member in members for deeper in nodes(member, (*steps, key)))]


def spoil_json(data, value):
    """The value with a random part replaced by junk or deleted."""
    holder = {"root": copy.deepcopy(value)}
    *way, last = data.draw(st.sampled_from(nodes(value)).map(lambda steps: ("root", *steps)))
    parent = holder
    for step in way:
        parent = parent[step]
    if len(way) and data.draw(st.booleans()):
        del parent[last]
    else:
        parent[last] = data.draw(st.sampled_from(JUNK))
    return holder["root"]


def spoil_structure(data, content, name):
    if name.endswith(".csv"):
        rows = list(csv.reader(io.StringIO(content.decode())))
        row = data.draw(st.sampled_from(rows))
        cell = data.draw(st.integers(0, len(row) - 1))
        row[cell : cell + 1] = data.draw(st.sampled_from([[], *([text] for text in CELLS)]))
        return table(rows[1:], rows[0])
    if name.endswith(".content"):
        return data.draw(st.sampled_from([b"", b" \n", b"<html></html>", b"\xff\xfe"]))
    if name.endswith(".json"):
        return json.dumps(spoil_json(data, json.loads(content)), indent=data.draw(st.sampled_from([None, 1]))).encode()
    lines = content.splitlines(keepends=True)
    number = data.draw(st.integers(0, len(lines) - 1))
    lines[number] = json.dumps(spoil_json(data, json.loads(lines[number]))).encode() + b"\n"
    return b"".join(lines)


def spoil(data, content, name):
    kind = data.draw(st.sampled_from(["structure", "structure", "structure", "cut", "bytes"]))
    if kind == "structure":
        return spoil_structure(data, content, name)
    at = data.draw(st.integers(0, len(content)))
    return content[:at] if kind == "cut" else content[:at] + b"\xff\xc3" + content[at:]


def outcome(case, folder, skip):
    """How many records were left out, or the error's message."""
    try:
        return sum(prepare(case, folder, skip)[1].values())
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_fault_is_reported_or_counted(name, data):
    case = CASES[name]
    files = case.files(records_of(case))
    spoiled = data.draw(st.sampled_from(sorted(files)))
    files[spoiled] = spoil(data, files[spoiled], spoiled)
    with tempfile.TemporaryDirectory() as folder:
        for file, content in files.items():
            path = Path(folder, "raw", file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        strict, lenient = outcome(case, Path(folder), False), outcome(case, Path(folder), True)
    if isinstance(strict, str):
        assert Path(spoiled).name in strict
    if isinstance(lenient, str):
        assert Path(spoiled).name in lenient
        assert isinstance(strict, str), "what stops a lenient run stops a strict one"
    else:
        assert (lenient > 0) == isinstance(strict, str), "a fault that stops is counted when it is skipped"


PARTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=3), parts, max_size=3),
    max_leaves=12,
)


@given(PARTS, st.sampled_from([None, 0, 3]), st.data())
def test_json_places_find_the_line(value, indent, data):
    steps = data.draw(st.sampled_from(nodes(value)))
    holder = {"value": copy.deepcopy(value)}
    parent, way = holder, ("value", *steps)
    for step in way[:-1]:
        parent = parent[step]
    parent[way[-1]] = "here it is"
    text = json.dumps(holder, indent=indent)
    expected = text.count("\n", 0, text.index('"here it is"')) + 1
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "a.json")
        file.write_text("\ufeff" + text, encoding="utf-8")
        assert str(JsonPlaces(file).of(*way, name="part")) == f"{file}:{expected} part"
        assert read_json_document(file) == holder


def test_need_names_the_field():
    for record, message in (([], "not an object"), ({}, "no field 'a'"), ({"a": True}, "not of type int")):
        with pytest.raises(DataError, match=message):
            need(record, "a", int)
