"""Readers, prompts and preparation: hand-made files in the official layouts with known answers, and bad input."""

import json
import subprocess
import sys

import pytest
from dataset_cases import (
    SPLITS,
    WRITERS,
    dump_lines,
    prepare_split,
    prepared_documents,
    prepared_manifest,
    write_narrativeqa,
    write_nq,
    write_qasper,
)

from retrotune.data.datasets import get_spec
from retrotune.data.datasets.base import Example, Passage
from retrotune.errors import DataError
from retrotune.study.config import DatasetEntry
from retrotune.study.raw import raw_files

READERS = ("nq", "triviaqa", "narrativeqa", "qasper", "quality", "qmsum")


def prepare(root, reader, max_train=None, max_test=None, **values):
    """Questions of both splits with all their answers, and the texts of all documents."""
    out, limits = root / "out", {"train": max_train, "test": max_test}
    found = [prepare_split(root, reader, split, out, limit=limits[split], **values) for split in SPLITS]
    return *found, {name: row.text for name, row in prepared_documents(out, *SPLITS).items()}


EXPECTED = {
    "nq": (["who wrote it"], [("Ann", "A. B.")], ["where is it"], [("Oslo",)]),
    "triviaqa": (["Who wrote it?"], [("Ann", "Anne")], ["Where is it?"], [("Oslo", "Christiania")]),
    "narrativeqa": (["Who wrote it?"], [("Ann", "Anne")], ["Where is it?"], [("Oslo", "in Oslo")]),
    "qasper": (["train?"], [("Ann, Bo", "No")], ["test?"], [("in Oslo", "Unanswerable")]),
    "quality": (["Which 0?"], [("a",)], ["Which 1?", "Which 2?"], [("b",), ("d",)]),
    "qmsum": (
        ["Summarize train.", "Why train?"], [("All about train.",), ("For train.",)],
        ["Summarize val.", "Why val?"], [("All about val.",), ("For val.",)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
def test_official_layout(tmp_path, reader):
    WRITERS[reader](tmp_path / reader)
    train, test, documents = prepare(tmp_path, reader)
    questions, answers, test_questions, test_answers = EXPECTED[reader]
    assert [example.question for example in train] == questions
    assert [example.answers for example in train] == answers
    assert [example.question for example in test] == test_questions
    assert [example.answers for example in test] == test_answers
    ids = [example.question_id for example in train + test]
    assert len(ids) == len(set(ids))
    if documents:
        assert {example.doc_id for example in train + test} == set(documents)


def test_types_of_answers(tmp_path):
    write_qasper(tmp_path / "qasper")
    train, test, _ = prepare(tmp_path, "qasper")
    assert [example.types for example in train + test] == [("extractive", "boolean"), ("abstractive", "none")]


def test_qualitys_hard_subset(tmp_path):
    WRITERS["quality"](tmp_path / "quality")
    file = tmp_path / "quality" / "QuALITY.v1.0.1.htmlstripped.dev"
    easy, hard = (json.loads(line) for line in file.read_text().splitlines())
    hard["questions"][0]["difficult"] = 1
    dump_lines(file, [easy, hard])
    assert [example.types for example in prepare(tmp_path, "quality")[1]] == [("easy",), ("hard",)]
    del hard["questions"][0]["difficult"]
    dump_lines(file, [easy, hard])
    assert [example.types for example in prepare(tmp_path, "quality")[1]] == [("easy",), ()]
    hard["questions"][0]["difficult"] = 2
    dump_lines(file, [easy, hard])
    with pytest.raises(DataError, match=r"dev:2 question 0: difficult is neither 0 nor 1 \(it is 2\)"):
        prepare(tmp_path, "quality")


def test_documents_are_text(tmp_path):
    for reader in ("narrativeqa", "qasper", "qmsum"):
        WRITERS[reader](tmp_path / reader)
    assert sorted(prepare(tmp_path, "narrativeqa")[2].values()) == ["Ann wrote it.", "It is in Oslo."]
    assert "I like train ." in " ".join(prepare(tmp_path, "qmsum")[2].values())
    paper = prepare(tmp_path, "qasper")[2]["test-paper"]
    assert [paper.index(part) for part in ("Ab.", "One.", "Two.")] == sorted(
        paper.index(p) for p in ("Ab.", "One.", "Two.")
    )


def test_scrolls_layout(tmp_path):
    record = {"id": "d1", "pid": "d1_0", "input": "Where?\n\n\nIt is in Oslo.", "output": "Oslo"}
    dump_lines(tmp_path / "qasper" / "train.jsonl", [{**record, "id": "t1", "pid": "t1_0", "input": "Who?\n\n\nAnn."}])
    dump_lines(tmp_path / "qasper" / "validation.jsonl", [record, {**record, "pid": "d1_1", "output": "in Oslo"}])
    dump_lines(tmp_path / "qasper" / "test.jsonl", [{**record, "output": None}])
    train, test, documents = prepare(tmp_path, "qasper", layout="scrolls")
    assert [(example.question, example.answers) for example in test] == [("Where?", ("Oslo", "in Oslo"))]
    assert documents[test[0].doc_id] == "It is in Oslo."
    assert len(train) == 1


def test_dpr_layout(tmp_path):
    def record(question):
        return {
            "question": question,
            "answers": ["Ann"],
            "positive_ctxs": [],
            "negative_ctxs": [],
            "hard_negative_ctxs": [],
        }

    (tmp_path / "nq").mkdir()
    for split, question in (("train", "who"), ("dev", "where")):
        (tmp_path / "nq" / f"biencoder-nq-{split}.json").write_text(json.dumps([record(question)]))
    train, test, _ = prepare(tmp_path, "nq", layout="dpr")
    assert [train[0].question, test[0].question, test[0].answers] == ["who", "where", ("Ann",)]


def test_a_test_question_is_never_trained_on(tmp_path):
    write_nq(tmp_path / "nq")
    same = [{"question": "Where is it?", "answer": ["Oslo"]}, {"question": "new", "answer": ["x"]}]
    dump_lines(tmp_path / "nq" / "NQ-open.train.jsonl", same)
    train, _, _ = prepare(tmp_path, "nq")
    assert [example.question for example in train] == ["new"]
    assert prepared_manifest(tmp_path / "out", "train")["dropped_as_test_questions"] == 1


def test_limits_take_the_first(tmp_path):
    dump_lines(tmp_path / "nq" / "NQ-open.train.jsonl", [{"question": f"a{i}", "answer": ["x"]} for i in range(9)])
    dump_lines(tmp_path / "nq" / "NQ-open.dev.jsonl", [{"question": f"b{i}", "answer": ["x"]} for i in range(9)])
    train, test, _ = prepare(tmp_path, "nq", max_train=2, max_test=3)
    assert [example.question for example in train + test] == ["a0", "a1", "b0", "b1", "b2"]


BAD_LINES = [
    (b'{"question": "q", "answer": []}\n', "no answers"),
    (b'{"question": "q", "answer": ["  "]}\n', "no answers"),
    (b'{"question": "q"}\n', "answer"),
    (b'{"question": "q", "ans', "JSON"),
    (b'{"question": "\xff", "answer": ["a"]}\n', "UTF-8"),
    (b'{"question": "", "answer": ["a"]}\n', "empty question"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_bad_record_is_named_with_file_and_line_or_counted(tmp_path, line, message):
    write_nq(tmp_path / "nq")
    good = b'{"question": "good", "answer": ["a"]}\n'
    (tmp_path / "nq" / "NQ-open.dev.jsonl").write_bytes(good + line)
    with pytest.raises(DataError) as error:
        prepare(tmp_path, "nq")
    assert "NQ-open.dev.jsonl:2" in str(error.value)
    assert message in str(error.value)
    assert not (tmp_path / "out" / "test.parquet").exists(), "nothing half-made is left"
    _, test, _ = prepare(tmp_path, "nq", skip_bad_records=True)
    assert [example.question for example in test] == ["good"]
    assert prepared_manifest(tmp_path / "out", "test")["bad_records"]["skipped"] == 1


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DataError, match="no such file or folder.*data_root"):
        prepare(tmp_path, "nq")
    (tmp_path / "nq").mkdir()
    with pytest.raises(DataError, match="no test questions; looked for"):
        prepare(tmp_path, "nq")
    write_narrativeqa(tmp_path / "narrativeqa")
    (tmp_path / "narrativeqa" / "tmp" / "bb.content").unlink()
    with pytest.raises(DataError, match="bb"):
        prepare(tmp_path, "narrativeqa")
    (tmp_path / "narrativeqa" / "tmp" / "bb.content").write_text("  ")
    with pytest.raises(DataError, match="empty document"):
        prepare(tmp_path, "narrativeqa")


RAW_FILES = {
    "nq": ["NQ-open.train.jsonl", "NQ-open.dev.jsonl"],
    "triviaqa": ["triviaqa-unfiltered/unfiltered-web-train.json", "triviaqa-unfiltered/unfiltered-web-dev.json"],
    "narrativeqa": ["qaps.csv", "documents.csv", "tmp"],
    "qasper": ["qasper-train-v0.3.json", "qasper-test-v0.3.json"],
    "quality": ["QuALITY.v1.0.1.htmlstripped.train", "QuALITY.v1.0.1.htmlstripped.dev"],
    "qmsum": ["ALL/jsonl/train.jsonl", "ALL/jsonl/val.jsonl"],
}


@pytest.mark.parametrize("reader", READERS)
def test_raw_files(tmp_path, reader):
    WRITERS[reader](tmp_path / reader)
    (tmp_path / reader / "notes.txt").write_text("not read")

    def names(split, **entry):
        files = raw_files(DatasetEntry(reader=reader, path=reader, **entry), tmp_path, split)
        return [file.relative_to(tmp_path / reader).as_posix() for file in files]

    train = {"narrativeqa": 0}.get(reader, 1)  # its one file holds both splits
    assert names("test") == RAW_FILES[reader][train:]
    assert names("train") == RAW_FILES[reader], "training questions are held against those to test on"
    assert names("train", max_train=0) == RAW_FILES[reader][train:]
    other = "dpr" if get_spec(reader).open_domain else "scrolls"
    assert names("train", layout=other) == names("test", layout=other) == ["."]


def test_raw_files_need_not_be_sound(tmp_path):
    (tmp_path / "qmsum").mkdir()
    for name in ("test.jsonl", "val.jsonl"):
        (tmp_path / "qmsum" / name).write_bytes(b"\xff")
    found = raw_files(DatasetEntry(reader="qmsum", path="qmsum"), tmp_path, "test")
    assert [file.name for file in found] == ["test.jsonl", "val.jsonl"]
    assert raw_files(DatasetEntry(reader="nq", path="none"), tmp_path, "train") == [tmp_path / "none"]
    single = DatasetEntry(reader="qmsum", path="qmsum/val.jsonl")
    assert raw_files(single, tmp_path, "train") == [tmp_path / "qmsum" / "val.jsonl"]


def test_listing_raw_files_imports_nothing_heavy():
    code = "import sys, retrotune.preparing.documents, retrotune.preparing.examples; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "pandas", "pyarrow", "numpy", "transformers"} & set(done.stdout.split())


def test_prompts():
    passage = Passage("p", "Oslo", "It is in Norway.", 1.0)
    nq = get_spec("nq")
    example = Example("q", "where is it", ("Oslo",))
    assert nq.prompt(example, [passage], "base") == (
        "title: Oslo, source: It is in Norway.\n\nQuestion: where is it? Answer: The answer is"
    )
    assert nq.target(example) == " Oslo"
    instruct = nq.prompt(example, [], "instruct")
    assert instruct.startswith("System: This is a chat")
    assert instruct.endswith(
        "User: Answer the following question with a short span. where is it?\n\nAssistant: The answer is"
    )
    quality = get_spec("quality")
    example = Example("q", "Which?", ("b",), "d", ("a", "b"))
    assert "(A) a" in quality.prompt_of("base").question_piece(example)
    assert "(B) b" in quality.prompt_of("base").question_piece(example)
    assert quality.target(example) == " b"


@pytest.mark.parametrize(
    ("reader", "text", "expected"),
    [
        ("nq", " Oslo. Question: next", "Oslo"),
        ("nq", " Oslo\nmore", "Oslo"),
        ("qmsum", " First. Second.\nmore", "First. Second."),
        ("nq", "", ""),
    ],
)
def test_answers_end_where_the_authors_cut(reader, text, expected):
    assert get_spec(reader).prompt_of("base").postprocess(text) == expected


@pytest.mark.parametrize("reader", READERS)
def test_real_files(shared, tmp_path, reader):
    """A few records of each real dataset: nothing about their number or ids is assumed."""
    train, test = (prepare_split(shared / "data", reader, split, tmp_path, limit=20) for split in SPLITS)
    ids = [example.question_id for example in train + test]
    assert train
    assert test
    assert len(set(ids)) == len(ids)
    assert all(answer.strip() for example in train + test for answer in example.answers)
    documents = prepared_documents(tmp_path, *SPLITS)
    assert bool(documents) != get_spec(reader).open_domain
    assert all(len(documents[example.doc_id].text.split()) > 100 for example in train + test if example.doc_id)
