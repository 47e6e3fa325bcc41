"""SQuAD 1.1: its reader, and the dataset as a study has it."""

import json

import pytest

from retrotune.data.datasets import SPECS
from retrotune.errors import DataError
from retrotune.preparing.download import SOURCES
from retrotune.preparing.examples import load_examples, load_references, prepare_examples
from retrotune.runtime.files import read_json, read_parquet
from retrotune.study.cells import Cell
from retrotune.study.config import DatasetEntry, load_config
from retrotune.study.resolve import cell_stages, resolve

FIRST, SECOND = "Ann built the tower in 1901.", "Bob lives in Oslo, and Eve in Hull."


def squad(title, *paragraphs):
    return {"title": title, "paragraphs": [{"context": context, "qas": qas} for context, qas in paragraphs]}


def asked(name, question, *answers):
    return {"id": name, "question": question, "answers": [{"text": text, "answer_start": 0} for text in answers]}


def write(folder, version="1.1", **splits):
    folder.mkdir(parents=True, exist_ok=True)
    for split, articles in splits.items():
        (folder / f"{split}-v1.1.json").write_text(json.dumps({"version": version, "data": articles}, indent=1))


@pytest.fixture
def files(tmp_path):
    train = squad("The_Tower", (FIRST, [asked("t1", "Who built it?", "Ann", "Ann")]), (SECOND, []))
    dev = squad(
        "Friends",
        (FIRST, [asked("d1", "When was it built?", "in 1901", "1901")]),
        (SECOND, [asked("d2", "Where does Bob live?", "Oslo")]),
    )
    write(tmp_path / "squad", train=[train], dev=[dev])
    return tmp_path


def prepare(root, split, **values):
    config = load_config(study(**values))
    out = [root / split / name for name in ("examples.parquet", "references.parquet", "documents.parquet")]
    prepare_examples(resolve(config, f"prepare_{split}", {"dataset": "squad"}), root, *out)
    return out


def study(**values):
    return {
        "study": "s",
        "data_root": ".",
        "datasets": {"squad": {"reader": "squad", "path": "squad", **values}},
        "retrievals": {"none": {"top_k": 0}},
        "models": {"g": {"family": "gpt", "size": "xs", "hub": "x/y"}},
        "methods": {"zeroshot": {"kind": "zeroshot"}},
        "grid": {"retrievals": ["none"]},
    }


def test_questions_have_their_article_and_their_paragraph(files):
    examples, references, documents = prepare(files, "test")
    assert [(example.question_id, example.doc_id) for example in load_examples(examples)] == [
        ("d1", "Friends"),
        ("d2", "Friends"),
    ]
    found = load_references(references)
    assert found["d1"].answers == ("in 1901", "1901")
    assert found["d1"].evidence == (FIRST,)
    assert found["d2"].evidence == (SECOND,)
    frame = read_parquet(documents)
    assert frame.to_dict("records") == [{"doc_id": "Friends", "title": "Friends", "text": f"{FIRST}\n\n{SECOND}"}]


def test_training_learns_the_first_answer(files):
    examples, _, documents = prepare(files, "train")
    assert [example.answers for example in load_examples(examples)] == [("Ann",)]
    assert list(read_parquet(documents)["title"]) == ["The Tower"]


def test_an_answer_that_its_paragraph_lacks_is_a_bad_record(files):
    articles = [squad("A", (FIRST, [asked("d1", "Who?", "Zoe"), asked("d2", "Who built it?", "Ann")]))]
    write(files / "squad", dev=articles)
    place = r"dev-v1.1.json:\d+ article 0 paragraph 0 question 0: "
    with pytest.raises(DataError, match=place + r"an answer is not in its paragraph \(question 'd1'\)"):
        prepare(files, "test")
    examples, *_ = prepare(files, "test", skip_bad_records=True)
    assert [example.question_id for example in load_examples(examples)] == ["d2"]
    assert read_json(examples.with_suffix(".manifest.json"))["bad_records"]["reasons"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"version": "v2.0", "data": []}, r"version 'v2.0' of SQuAD; put version 1.1 there"),
        ({"version": "1.1"}, "no list under 'data'; is this a SQuAD file?"),
        ([], "no list under 'data'; is this a SQuAD file?"),
    ],
)
def test_other_files_are_refused(files, content, message):
    (files / "squad" / "dev-v1.1.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        prepare(files, "test")


def test_a_study_takes_prompts_metric_and_files_from_the_record():
    config = load_config(study())
    used = cell_stages(config, Cell("g", "zeroshot", "squad", "none", 0))
    assert used["score_cell"].metrics == ("f1", "exact_match", "contains")
    assert used["predict_cell"].prompting.template == SPECS["squad"].templates["base"]
    assert used["predict_cell"].prompting.may_lack_passages
    assert [file.name for file in SOURCES[DatasetEntry(reader="squad", path="squad").download]] == [
        "train-v1.1.json",
        "dev-v1.1.json",
    ]
