"""Hand-made raw files, shared by the tests of readers and of stages.

`WRITERS` write each dataset's official layout with the fields that a release has. `CASES` are all layouts with as
little as a record needs, one record per line, to be spoiled. `prepare_split` is the one place where tests prepare.
"""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrotune.data.datasets import SPECS
from retrotune.data.datasets.base import Example
from retrotune.preparing.examples import (
    load_examples,
    prepare_examples,
    with_references,
    write_examples,
    write_references,
)
from retrotune.runtime.files import read_json, read_parquet
from retrotune.study.stages import PrepareTestParams, PrepareTrainParams

PARAMS = {"train": PrepareTrainParams, "test": PrepareTestParams}
SPLITS = ("train", "test")


def split_paths(out: Path, split: str) -> list[Path]:
    """Questions, references and documents of a split below `out`, named as the workflow names them."""
    return [out / f"{split}{kind}.parquet" for kind in ("", ".references", ".documents")]


def prepare_split(root: Path, reader: str, split: str, out: Path, **values: Any) -> list[Example]:
    """Prepare a split of the raw files in `root`/`path` (by default the reader's name); its questions with answers."""
    given = {"path": reader, "layout": "official", "reader_version": SPECS[reader].version, **values}
    examples, references, documents = split_paths(out, split)
    prepare_examples(PARAMS[split](reader=reader, **given), root, examples, references, documents)
    return with_references(load_examples(examples), references)


def prepared_documents(out: Path, *splits: str) -> dict[str, Any]:
    """Rows of the documents of these splits by id."""
    rows = [row for split in splits for row in read_parquet(split_paths(out, split)[2]).itertuples(index=False)]
    return {row.doc_id: row for row in rows}


def prepared_manifest(out: Path, split: str) -> Any:
    """What preparing a split recorded."""
    return read_json(out / f"{split}.manifest.json")


def write_split(examples: Path, questions: list[Example]) -> tuple[Path, Path]:
    """Hand-made test questions as preparing writes them; the paths of questions and references."""
    references = examples.with_suffix(".references.parquet")
    write_examples(examples, questions, with_answer=False)
    write_references(references, questions)
    return examples, references


def dump_lines(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_nq(folder):
    dump_lines(folder / "NQ-open.train.jsonl", [{"question": "who wrote it", "answer": ["Ann", "A. B."]}])
    dump_lines(folder / "NQ-open.dev.jsonl", [{"question": "where is it", "answer": ["Oslo"]}])


def write_triviaqa(folder):
    def file(split, question, value, aliases):
        answer = {"Value": value, "Aliases": aliases, "NormalizedAliases": [a.lower() for a in aliases]}
        data = [
            {"QuestionId": f"{split}_1", "Question": question, "Answer": answer, "SearchResults": [], "EntityPages": []}
        ]
        path = folder / "triviaqa-unfiltered" / f"unfiltered-web-{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"Data": data, "Domain": "unfiltered-web", "VerifiedEval": False}))

    file("train", "Who wrote it?", "Ann", ["Ann", "Anne"])
    file("dev", "Where is it?", "Oslo", ["Oslo", "Christiania"])


def write_narrativeqa(folder):
    (folder / "tmp").mkdir(parents=True)
    header = (
        "document_id,set,kind,story_url,story_file_size,wiki_url,wiki_title,story_word_count,story_start,story_end\n"
    )
    rows = [f"{doc},{split},gutenberg,u,1,w,Tale {doc},5,a,b\n" for doc, split in (("aa", "train"), ("bb", "test"))]
    (folder / "documents.csv").write_text(header + "".join(rows))
    header = "document_id,set,question,answer1,answer2,question_tokenized,answer1_tokenized,answer2_tokenized\n"
    rows = ["aa,train,Who wrote it?,Ann,Anne,q,a,a\n", "bb,test,Where is it?,Oslo,in Oslo,q,a,a\n"]
    (folder / "qaps.csv").write_text(header + "".join(rows))
    (folder / "tmp" / "aa.content").write_text("Ann wrote it.")
    (folder / "tmp" / "bb.content").write_text("<html><body><p>It is in Oslo.</p></body></html>")


def qasper_answer(**answer):
    empty = {"unanswerable": False, "extractive_spans": [], "yes_no": None, "free_form_answer": "", "evidence": []}
    return {"answer": {**empty, **answer}, "annotation_id": "a", "worker_id": "w"}


def write_qasper(folder):
    folder.mkdir(parents=True)
    for split, answers in (
        ("train", [qasper_answer(extractive_spans=["Ann", "Bo"]), qasper_answer(yes_no=False)]),
        ("test", [qasper_answer(free_form_answer="in Oslo"), qasper_answer(unanswerable=True)]),
    ):
        paper = {
            "title": "T", "abstract": "Ab.", "full_text": [{"section_name": "S", "paragraphs": ["One.", "Two."]}],
            "qas": [{"question": f"{split}?", "question_id": f"{split}1", "answers": answers}],
            "figures_and_tables": [],
        }  # fmt: skip
        (folder / f"qasper-{split}-v0.3.json").write_text(json.dumps({f"{split}-paper": paper}))


def write_quality(folder):
    def article(writer, number, gold):
        question = {
            "question": f"Which {number}?", "question_unique_id": f"q{number}", "options": ["a", "b", "c", "d"],
            "writer_label": gold, "gold_label": gold, "validation": [], "speed_validation": [], "difficult": 0,
        }  # fmt: skip
        return {
            "article_id": "1", "set_unique_id": f"1_{writer}", "batch_num": "", "writer_id": writer, "source": "",
            "title": "T", "year": None, "author": "", "topic": "", "article": "The text.", "questions": [question],
            "url": "", "license": "",
        }  # fmt: skip

    dump_lines(folder / "QuALITY.v1.0.1.htmlstripped.train", [article("w", 0, 1)])
    dump_lines(folder / "QuALITY.v1.0.1.htmlstripped.dev", [article("x", 1, 2), article("y", 2, 4)])


def write_qmsum(folder):
    def meeting(word):
        return {
            "topic_list": [],
            "general_query_list": [{"query": f"Summarize {word}.", "answer": f"All about {word}."}],
            "specific_query_list": [
                {"query": f"Why {word}?", "answer": f"For {word}.", "relevant_text_span": [["0", "0"]]}
            ],
            "meeting_transcripts": [{"speaker": "Ann", "content": f"I like {word} ."}],
        }

    for split in ("train", "val"):
        dump_lines(folder / "ALL" / "jsonl" / f"{split}.jsonl", [meeting(split)])


WRITERS = {
    "nq": write_nq, "triviaqa": write_triviaqa, "narrativeqa": write_narrativeqa,
    "qasper": write_qasper, "quality": write_quality, "qmsum": write_qmsum,
}  # fmt: skip


NO_ANNOTATION = {"unanswerable": False, "extractive_spans": [], "yes_no": None, "free_form_answer": ""}


def nq(word):
    return {"question": f"where is {word}", "answer": [word, word.upper()]}


def dpr(word):
    return {"question": f"where is {word}", "answers": [word], "positive_ctxs": [{"title": "T", "text": word}]}


def triviaqa(word):
    return {"QuestionId": word, "Question": f"Where is {word}?", "Answer": {"Value": word, "Aliases": [word]}}


def narrativeqa(word):
    return {"document_id": word, "set": "", "question": f"Where is {word}?", "answer1": word, "answer2": f"in {word}"}


def qasper(word):
    answers = [{"answer": {**NO_ANNOTATION, "extractive_spans": [word]}}, {"answer": {**NO_ANNOTATION, "yes_no": True}}]
    text = [{"section_name": None, "paragraphs": [word]}, {"section_name": "S", "paragraphs": ["One.", word]}]
    questions = [{"question": f"Where is {word}?", "question_id": f"q{word}", "answers": answers}]
    return {"title": word, "abstract": f"About {word}.", "full_text": text, "qas": questions}


def quality(word):
    question = {"question": f"Where is {word}?", "question_unique_id": f"q{word}", "options": [word, "b"]}
    questions = [{**question, "gold_label": 1}]
    return {"article_id": word, "title": word, "article": f"It is {word}.", "questions": questions}


def qmsum(word):
    return {
        "general_query_list": [{"query": f"Why {word}?", "answer": f"For {word}."}],
        "specific_query_list": [],
        "meeting_transcripts": [{"speaker": "Ann", "content": f"I like {word} ."}],
    }


def scrolls(word):
    return {"id": word, "pid": f"{word}_0", "input": f"Where is {word}?\n\nIt is {word}.", "output": word}


def scrolls_quality(word):
    return {**scrolls(word), "input": f"Where?\n\n (A) {word}\n (B) b\n\nIt is {word}."}


@dataclass(frozen=True)
class Case:
    """A layout as small files: one record per line, whatever the format, the first on line `offset`.

    `no_answers` and `no_document` spoil a record; None where the dataset has no documents of its own.
    """

    reader: str
    layout: str
    record: Callable[[str], dict[str, Any]]
    train: str
    test: str
    form: str
    no_answers: Callable[[dict[str, Any]], Any]
    no_document: Callable[[dict[str, Any]], Any] | None = None

    @property
    def offset(self) -> int:
        return 1 if self.form == "lines" else 2

    def write(self, folder: Path, records: dict[str, list[dict[str, Any]]]) -> None:
        for name, content in self.files(records).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)

    def files(self, records: dict[str, list[dict[str, Any]]]) -> dict[str, bytes]:
        if self.form == "csv":
            return csv_files(records)
        return {
            getattr(self, split): serialize(self.form, split, some).encode("utf-8", "surrogatepass")
            for split, some in records.items()
        }


def serialize(form, split, records):
    lines = [json.dumps(record) for record in records]
    if form == "lines":
        return "".join(f"{line}\n" for line in lines)
    if form == "papers":
        return "{\n" + ",\n".join(f'"{split}{number}": {line}' for number, line in enumerate(lines)) + "\n}"
    return ('{"Data": [\n' if form == "Data" else "[\n") + ",\n".join(lines) + ("\n]}" if form == "Data" else "\n]")


def csv_files(records):
    """NarrativeQA; test rows come last."""
    placed = [(split, record) for split in ("train", "test") for record in records.get(split, ())]
    ids = list(dict.fromkeys(record["document_id"] for _, record in placed))
    return {
        "qaps.csv": table([[*{**record, "set": split}.values()] for split, record in placed], narrativeqa("")),
        "documents.csv": table([[name, f"Tale of {name}"] for name in ids], ("document_id", "wiki_title")),
        **{f"tmp/{name}.content": f"It is {name}.".encode() for name in ids},
    }


def table(rows, header):
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([list(header), *rows])
    return stream.getvalue().encode()


def scrolls_case(reader, record=scrolls):
    def no_document(raw):
        raw["input"] = raw["input"].rpartition("\n\n")[0] + "\n\n "

    return Case(reader, "scrolls", record, "train.jsonl", "validation.jsonl", "lines",
                lambda raw: raw.update(output=None), no_document)  # fmt: skip


CASES = {
    "nq": Case("nq", "official", nq, "NQ-open.train.jsonl", "NQ-open.dev.jsonl", "lines",
               lambda raw: raw.update(answer=[])),
    "triviaqa": Case("triviaqa", "official", triviaqa, "web-train.json", "web-dev.json", "Data",
                     lambda raw: raw["Answer"].update(Value="", Aliases=[" "])),
    "narrativeqa": Case("narrativeqa", "official", narrativeqa, "qaps.csv", "qaps.csv", "csv",
                        lambda raw: raw.update(answer1="", answer2=" ")),
    "qasper": Case("qasper", "official", qasper, "qasper-train-v0.3.json", "qasper-test-v0.3.json", "papers",
                   lambda raw: raw["qas"][0].update(answers=[{"answer": NO_ANNOTATION}]),
                   lambda raw: raw.update(abstract="", full_text=[])),
    "quality": Case("quality", "official", quality, "QuALITY.v1.htmlstripped.train", "QuALITY.v1.htmlstripped.dev",
                    "lines", lambda raw: raw["questions"][0].pop("gold_label"), lambda raw: raw.update(article=" ")),
    "qmsum": Case("qmsum", "official", qmsum, "train.jsonl", "test.jsonl", "lines",
                  lambda raw: raw["general_query_list"][0].pop("answer"),
                  lambda raw: raw.update(meeting_transcripts=[])),
    "nq-dpr": Case("nq", "dpr", dpr, "biencoder-nq-train.json", "biencoder-nq-dev.json", "list",
                   lambda raw: raw.update(answers=[])),
    "narrativeqa-scrolls": scrolls_case("narrativeqa"),
    "qasper-scrolls": scrolls_case("qasper"),
    "quality-scrolls": scrolls_case("quality", scrolls_quality),
    "qmsum-scrolls": scrolls_case("qmsum"),
}  # fmt: skip


def records_of(case):
    return {split: [case.record(f"{split}{number}") for number in range(2)] for split in ("train", "test")}
