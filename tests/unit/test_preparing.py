"""Preparing one split: what goes into its questions, references and documents, and what does not change them."""

import dataclasses
import json

import pyarrow.parquet as pq
import pytest
from dataset_cases import (
    CASES,
    SPLITS,
    dump_lines,
    prepare_split,
    prepared_documents,
    prepared_manifest,
    qasper_answer,
    records_of,
    split_paths,
    write_qasper,
    write_split,
)

from retrotune.data.datasets.base import Example
from retrotune.errors import DataError
from retrotune.preparing.examples import load_examples, load_references, with_references, write_examples
from retrotune.study.config import load_config
from retrotune.study.resolve import resolve

STUDY = {
    "study": "s",
    "datasets": {"nq": {"reader": "nq", "path": "nq", "max_train": 3}},
    "corpora": {"wiki": {"reader": "dpr_passages", "path": "w.tsv"}},
    "retrievals": {"none": {"top_k": 0}},
    "models": {"g": {"family": "gpt", "size": "xs", "hub": "some/model"}},
    "methods": {"zeroshot": {"kind": "zeroshot"}},
    "grid": {"retrievals": ["none"]},
}


def write_questions(root):
    """NQ-open of six questions a split; one that is asked in training too is the third to test on."""
    asked = {"train": ["a0", "Where is B2 ?", "a2", "a3", "a4", "a5"], "dev": [f"b{n}" for n in range(6)]}
    asked["dev"][2] = "where is b2"
    for split, questions in asked.items():
        dump_lines(root / "nq" / f"NQ-open.{split}.jsonl", [{"question": text, "answer": ["x"]} for text in questions])


@pytest.mark.parametrize("limit", [1, 2, None])
def test_training_questions_do_not_depend_on_how_many_are_tested(tmp_path, limit):
    """A question of the raw test split is none to train on, used or not; other limits change no byte."""
    write_questions(tmp_path)
    study = {**STUDY, "datasets": {"nq": {**STUDY["datasets"]["nq"], "max_test": limit}}}
    used = {split: resolve(load_config(study), f"prepare_{split}", {"dataset": "nq"}) for split in SPLITS}
    assert used["train"] == resolve(load_config(STUDY), "prepare_train", {"dataset": "nq"})
    assert used["test"].limit == limit
    train = prepare_split(tmp_path, "nq", "train", tmp_path / "out", limit=used["train"].limit)
    assert [example.question for example in train] == ["a0", "a2", "a3"], "the next ones fill the places"
    assert prepared_manifest(tmp_path / "out", "train")["dropped_as_test_questions"] == 1
    test = prepare_split(tmp_path, "nq", "test", tmp_path / "out", limit=limit)
    assert len(test) == (limit or 6)


def test_a_question_about_another_document_is_another_question(tmp_path):
    case, records = CASES["quality"], records_of(CASES["quality"])
    for record in (*records["train"], *records["test"]):
        record["questions"][0]["question"] = "Where is it?"
    records["test"][1]["article_id"] = records["train"][1]["article_id"]
    case.write(tmp_path / "quality", records)
    train = prepare_split(tmp_path, "quality", "train", tmp_path / "out")
    assert [example.doc_id for example in train] == [records["train"][0]["article_id"]]


def test_bad_test_records_are_reported_where_they_are_used(tmp_path):
    write_questions(tmp_path)
    with open(tmp_path / "nq" / "NQ-open.dev.jsonl", "a") as stream:
        stream.write('{"question": "b9"}\n')
    assert len(prepare_split(tmp_path, "nq", "train", tmp_path / "out")) == 5
    assert prepared_manifest(tmp_path / "out", "train")["bad_records"]["skipped"] == 0
    assert prepared_manifest(tmp_path / "out", "train")["bad_test_records_not_compared"] == 1
    with pytest.raises(DataError, match=r"NQ-open\.dev\.jsonl:7: no field 'answer'"):
        prepare_split(tmp_path, "nq", "test", tmp_path / "out")


def test_each_split_has_its_own_documents(tmp_path):
    """A paper that both splits ask about belongs to both, with the text that each has of it."""
    write_qasper(tmp_path / "qasper")
    for split in SPLITS:
        file = tmp_path / "qasper" / f"qasper-{split}-v0.3.json"
        papers = json.loads(file.read_text())
        (paper,) = papers.values()
        question = {**paper["qas"][0], "question_id": f"{split}2"}
        file.write_text(json.dumps({**papers, "both": {**paper, "abstract": f"As {split}.", "qas": [question]}}))
        prepare_split(tmp_path, "qasper", split, tmp_path / "out")
    train, test = (prepared_documents(tmp_path / "out", split) for split in SPLITS)
    assert (list(train), list(test)) == (["train-paper", "both"], ["test-paper", "both"])
    assert (train["both"].text[:9], test["both"].text[:8]) == ("As train.", "As test.")


def test_an_open_domain_dataset_has_no_documents(tmp_path):
    write_questions(tmp_path)
    for split in SPLITS:
        prepare_split(tmp_path, "nq", split, tmp_path / "out")
        assert prepared_documents(tmp_path / "out", split) == {}
        assert prepared_manifest(tmp_path / "out", split)["documents"] == 0


def test_references_hold_every_annotators_answer_with_its_type(tmp_path):
    write_qasper(tmp_path / "qasper")
    file = tmp_path / "qasper" / "qasper-test-v0.3.json"
    papers = json.loads(file.read_text())
    papers["test-paper"]["qas"][0]["answers"] = [
        qasper_answer(extractive_spans=["Oslo"], evidence=["One.", "FLOAT SELECTED: Table 1"]),
        qasper_answer(free_form_answer="Oslo", evidence=["Two.", "One."]),
        qasper_answer(yes_no=True),
        qasper_answer(unanswerable=True),
    ]
    file.write_text(json.dumps(papers))
    prepare_split(tmp_path, "qasper", "test", tmp_path / "out")
    (found,) = load_references(split_paths(tmp_path / "out", "test")[1]).values()
    assert (found.question_id, found.doc_id) == ("test1", "test-paper")
    assert found.answers == ("Oslo", "Oslo", "Yes", "Unanswerable"), "one per annotator, also where two agree"
    assert found.types == ("extractive", "abstractive", "boolean", "none")
    assert found.evidence == ("One.", "Two.")


def test_questions_to_test_on_come_without_answers(tmp_path):
    """What prediction reads holds none; training questions come with the one to learn, and no other."""
    case, records = CASES["quality"], records_of(CASES["quality"])
    case.write(tmp_path / "quality", records)
    for split in SPLITS:
        prepare_split(tmp_path, "quality", split, tmp_path / "out")
        table = pq.read_table(split_paths(tmp_path / "out", split)[0])
        assert table.column_names == ["question_id", "question", "doc_id", "options", "answer"]
        assert table["answer"].null_count == (len(table) if split == "test" else 0)
        assert table["options"].to_pylist() == [record["questions"][0]["options"] for record in records[split]]
    write_questions(tmp_path)
    dump_lines(tmp_path / "nq" / "NQ-open.train.jsonl", [{"question": "a", "answer": ["first", "second"]}])
    prepare_split(tmp_path, "nq", "train", tmp_path / "open")
    examples, references, _ = split_paths(tmp_path / "open", "train")
    assert [example.answers for example in load_examples(examples)] == [("first",)]
    assert [reference.answers for reference in load_references(references).values()] == [("first", "second")]


def test_references_of_other_questions_are_refused(tmp_path):
    asked = [Example(f"q{n}", "Where?", ("here", "there"), "d", evidence=("It is here.",)) for n in range(3)]
    examples, references = write_split(tmp_path / "test.parquet", asked)
    assert with_references(load_examples(examples), references) == asked
    assert with_references(load_examples(examples)[:1], references) == asked[:1], "more references do no harm"
    more = [dataclasses.replace(asked[0], question_id=name) for name in ("new", "newer")]
    write_examples(examples, [*asked, *more], with_answer=False)
    message = r"test\.references\.parquet: no references for 2 of 5 questions, first 'new'; delete it and run again"
    with pytest.raises(DataError, match=message):
        with_references(load_examples(examples), references)
