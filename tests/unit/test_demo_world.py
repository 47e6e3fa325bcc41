"""The demo world: same bytes for the same seed, official fields, answers that stand in the text, disjoint names."""

import csv
import gzip
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dataset_cases import SPLITS, prepare_split, prepared_documents

from retrotune.data.demo import names
from retrotune.data.demo.facts import MAX_STATEMENT_WORDS, MIN_STATEMENT_WORDS, PASSAGE_WORDS
from retrotune.data.demo.names import Namer, seeded, split_of, thing
from retrotune.data.demo.scenes import draw_scene, fill
from retrotune.errors import ConfigError
from retrotune.preparing.chunking import split_passages
from retrotune.preparing.documents import read_corpus
from retrotune.preparing.world import DEMOS, write_world
from retrotune.runtime.files import read_json
from retrotune.study.config import CorpusEntry, World
from retrotune.study.stages import WriteWorldParams

WORLD = World(seed=5, pretraining_pages=300, train_documents=12, test_documents=8, questions_per_document=5)
SHARED = Path(os.environ.get("RETROTUNE_SHARED", Path(__file__).parents[3] / "shared")) / "data"
NAME = re.compile(rf"\b(?:{'|'.join(names.FIRST)})(?:{'|'.join(names.MIDDLE)})?(?:{'|'.join(names.LAST)})\b")
RELATIONS = [relation for demo in DEMOS.values() for relation in demo.family.relations]
CLOSED = ("narrativeqa", "qasper", "quality", "qmsum")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(WriteWorldParams(world=WORLD), folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def prepared(root: Path, reader: str, out: Path) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """Questions of both splits with their answers, and all documents."""
    train, test = (prepare_split(root, reader, split, out) for split in SPLITS)
    return train, test, prepared_documents(out, *SPLITS)


def articles(root: Path) -> dict[str, str]:
    with gzip.open(root / "wikipedia/psgs_w100.tsv.gz", "rt", encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream, delimiter="\t"))
    assert rows[0] == ["id", "text", "title"]
    assert len({title for _, _, title in rows[1:]}) == len(rows) - 1
    return {title: text for _, text, title in rows[1:]}


def test_same_world_same_bytes_whatever_the_hash_seed_and_what_was_there_before(root: Path, tmp_path: Path) -> None:
    write_world(WriteWorldParams(world=WORLD.model_copy(update={"seed": 6})), tmp_path)
    other = contents(tmp_path)
    code = "import sys; from retrotune.study.stages import WriteWorldParams\n"
    code += (
        "from retrotune.preparing.world import write_world; write_world(WriteWorldParams.of(sys.argv[2]), sys.argv[1])"
    )
    command = [sys.executable, "-c", code, str(tmp_path), WriteWorldParams(world=WORLD).text()]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "123"})
    assert contents(tmp_path) == contents(root)
    for name in ("nq/NQ-open.dev.jsonl", "wikipedia/psgs_w100.tsv.gz", "pretraining/pages.txt"):
        assert other[name] != contents(root)[name]


def test_names_of_test_dev_train_and_pretraining_are_disjoint(root: Path, tmp_path: Path) -> None:
    found: dict[str, set[str]] = {"pretraining": set()}
    for file in (root / "pretraining").iterdir():
        found["pretraining"] |= set(NAME.findall(file.read_text(encoding="utf-8")))
    for reader in DEMOS:
        train, test, texts = prepared(root, reader, tmp_path / reader)
        for split, examples in (("train", train), ("test", test)):
            for example in examples:
                said = " ".join((example.question, *example.answers, *example.options))
                if texts:
                    said += f" {texts[example.doc_id].title} {texts[example.doc_id].text}"
                found.setdefault(split, set()).update(NAME.findall(said))
    assert all(len(some) > 100 for some in found.values())
    for one, other in itertools.combinations(found.values(), 2):
        assert not one & other
    assert all(split_of(name) == split for split, some in found.items() for name in some)


def test_answers_of_open_questions_stand_in_the_article_of_the_subject(root: Path, tmp_path: Path) -> None:
    texts = articles(root)
    for reader in ("nq", "triviaqa"):
        train, test, _ = prepared(root, reader, tmp_path / reader)
        assert (len(train), len(test)) == (60, 40)
        for example in train + test:
            (subject,) = NAME.findall(example.question)
            assert example.answers[0] in texts[subject]


@pytest.mark.parametrize("reader", CLOSED)
def test_answers_stand_beside_the_subject_in_one_passage_of_the_document(
    root: Path, tmp_path: Path, reader: str
) -> None:
    train, test, documents = prepared(root, reader, tmp_path)
    passages = {doc_id: split_passages(row.text, PASSAGE_WORDS) for doc_id, row in documents.items()}
    assert all(len(some) >= 5 for some in passages.values())
    checked = 0
    for example in train + test:
        answer = example.answers[0].rstrip(".")
        subjects = NAME.findall(example.question)
        if not subjects:
            assert (reader, example.question) == ("qmsum", "Summarize the whole meeting")
            assert answer.removeprefix("The meeting heard") in documents[example.doc_id].text
        elif answer not in ("Yes", "No", "Unanswerable"):
            value = answer.removeprefix(subjects[0]).split()[-1] if reader == "qmsum" else answer
            pages = [passage for passage in passages[example.doc_id] if passage.count(subjects[0]) == 3]
            assert len(pages) == 1, "the three statements about a subject are one passage"
            assert value in pages[0]
            checked += 1
    assert checked > 70


def test_datasets_ask_in_held_out_phrasings_and_quizzes_never_do(root: Path, tmp_path: Path) -> None:
    def pattern(phrasings: list[str]) -> re.Pattern[str]:
        forms = [re.escape(phrasing.removesuffix("?")).replace(re.escape("{e}"), r"\w+") for phrasing in phrasings]
        return re.compile(rf"(?:{'|'.join(forms)})\??")

    seen = pattern([phrasing for relation in RELATIONS for phrasing in relation.seen])
    held_out = pattern([phrasing for relation in RELATIONS for phrasing in relation.held_out])
    quizzes = (root / "pretraining/quizzes.txt").read_text(encoding="utf-8").split("\n")
    asked = [line.split("Question: ")[1].split(" Answer: ")[0] for line in quizzes if line]
    assert len(asked) == 3 * WORLD.pretraining_pages
    assert all(seen.fullmatch(question) and not held_out.fullmatch(question) for question in asked)
    for reader in DEMOS:
        train, test, _ = prepared(root, reader, tmp_path / reader)
        questions = [example.question for example in train + test]
        special = [question for question in questions if not held_out.fullmatch(question)]
        assert all(re.match("Is it true that|Summarize the whole meeting", question) for question in special)
        assert len(special) < len(questions) / 4


def test_quizzes_have_the_form_of_the_base_prompt_and_are_answered_by_their_page(root: Path) -> None:
    pages = list(read_corpus(CorpusEntry(reader="text", path="pretraining/pages.txt", documents="wikitext"), root))
    entry = CorpusEntry(reader="text", path="pretraining/quizzes.txt", documents="paragraph")
    quizzes = list(read_corpus(entry, root))
    assert len(pages) == len(quizzes) == WORLD.pretraining_pages
    assert all(page.title and "\n" not in page.text for page in pages)
    for quiz in quizzes:
        subject = NAME.findall(quiz.text)[0]
        (page,) = (page for page in pages if page.text.count(subject) == 3)
        for line in quiz.text.split("\n"):
            match = re.fullmatch(r"Question: [^?.]+\? Answer: The answer is ([^.]+)\.", line)
            assert match
            assert subject in line
            words = match[1].split()
            assert " ".join(words[-3:] if "the" in words else words[-1:]) in page.text


def test_statements_and_phrasings_are_fit_for_use() -> None:
    phrasings = [phrasing for relation in RELATIONS for phrasing in (*relation.seen, *relation.held_out)]
    statements = [statement for relation in RELATIONS for statement in relation.statements]
    assert len(set(phrasings)) == len(phrasings) == 4 * len(RELATIONS)
    assert len(set(statements)) == len(statements) == 3 * len(RELATIONS)
    assert all(phrasing.count("{e}") == 1 and "{v}" not in phrasing for phrasing in phrasings)
    for relation in RELATIONS:
        for statement in relation.statements:
            value = thing(seeded(1)) if relation.value == "thing" else "Belak"
            words = fill(statement, "Kelim", value).split()
            assert MIN_STATEMENT_WORDS <= len(words) <= MAX_STATEMENT_WORDS, statement
            assert statement.endswith(".")
            assert statement.count("{e}") == statement.count("{v}") == 1


def test_quality_options_differ_and_the_label_names_the_right_one(root: Path, tmp_path: Path) -> None:
    train, test, _ = prepared(root, "quality", tmp_path)
    labels = {example.options.index(example.answers[0]) for example in train + test}
    assert labels == {0, 1, 2, 3}
    assert all(len(set(example.options)) == 4 for example in train + test)
    scene = draw_scene(DEMOS["quality"].family, Namer("test"), seeded(3), 5)
    for question in scene.questions:
        assert question.fact.value not in question.distractors


def test_qasper_has_every_kind_of_answer_and_the_untold_is_untold(root: Path) -> None:
    kinds = {"extractive": 0, "free": 0, "true": 0, "false": 0, "unanswerable": 0}
    for split in ("train", "dev", "test"):
        for paper in read_json(root / f"qasper/qasper-{split}-v0.3.json").values():
            text = " ".join(paragraph for section in paper["full_text"] for paragraph in section["paragraphs"])
            for qa in paper["qas"]:
                for answer in (entry["answer"] for entry in qa["answers"]):
                    kinds["extractive"] += bool(answer["extractive_spans"])
                    kinds["free"] += bool(answer["free_form_answer"])
                    kinds["unanswerable"] += answer["unanswerable"]
                    kinds["true"] += answer["yes_no"] is True
                    kinds["false"] += answer["yes_no"] is False
                    if answer["unanswerable"]:
                        (subject,) = NAME.findall(qa["question"])
                        (relation,) = (
                            relation
                            for relation in DEMOS["qasper"].family.relations
                            if qa["question"] in [fill(form, subject, "") for form in relation.held_out]
                        )
                        told = [re.escape(fill(form, subject, "VALUE")) for form in relation.statements]
                        assert not re.search("|".join(told).replace("VALUE", r"\w+"), text)
    assert all(kinds.values())
    assert kinds["extractive"] > 0.6 * 5 * (12 + 8 + 2)


OFFICIAL_FIELDS = {
    "nq/NQ-open.dev.jsonl": ("", {"question", "answer"}),
    "triviaqa/triviaqa-unfiltered/unfiltered-web-dev.json": (
        "",
        {"Data", "Domain", "Split", "VerifiedEval", "Version"},
    ),
    "qasper/qasper-test-v0.3.json": ("*", {"title", "abstract", "full_text", "qas", "figures_and_tables"}),
    "quality/QuALITY.v1.0.1.htmlstripped.dev": (
        "",
        {"article_id", "set_unique_id", "batch_num", "writer_id", "source", "title", "year", "author", "topic"}
        | {"article", "questions", "url", "license"},
    ),
    "qmsum/ALL/jsonl/val.jsonl": (
        "",
        {"topic_list", "general_query_list", "specific_query_list", "meeting_transcripts"},
    ),
}
EMPTY_HERE = (".figures_and_tables.", ".questions.validation.", ".questions.speed_validation.", ".Data.EntityPages.",
              ".Data.SearchResults.")  # fmt: skip
"""Lists that are empty in the world and may hold records in the released files."""


def first_record(file: Path) -> Any:
    text = file.read_text(encoding="utf-8")
    return json.loads(text if file.suffix == ".json" else text.split("\n")[0])


def field_paths(value: Any, place: str = "") -> set[str]:
    """All key paths of a record; the first entry of a list stands for all."""
    if isinstance(value, dict):
        return {
            deeper for key, item in value.items() for deeper in {f"{place}.{key}", *field_paths(item, f"{place}.{key}")}
        }
    if isinstance(value, list) and value:
        return field_paths(value[0], place)
    return set()


@pytest.mark.parametrize("name", OFFICIAL_FIELDS)
def test_records_have_the_official_fields(root: Path, name: str) -> None:
    depth, fields = OFFICIAL_FIELDS[name]
    record = first_record(root / name)
    assert set(next(iter(record.values())) if depth else record) == fields


@pytest.mark.parametrize("name", OFFICIAL_FIELDS)
def test_records_have_the_fields_of_the_real_files(root: Path, name: str) -> None:
    if not (SHARED / name).exists():
        pytest.skip(f"no real files at {SHARED}; set RETROTUNE_SHARED")
    ours, real = first_record(root / name), first_record(SHARED / name)
    if OFFICIAL_FIELDS[name][0]:
        ours, real = next(iter(ours.values())), next(iter(real.values()))
    more = field_paths(real) - field_paths(ours)
    assert field_paths(ours) <= field_paths(real)
    assert all(path.startswith(EMPTY_HERE) for path in more), "fields that only the real file has"


@pytest.mark.parametrize("name", ["documents.csv", "qaps.csv", "third_party/wikipedia/summaries.csv"])
def test_narrativeqa_tables_have_the_columns_of_the_real_ones(root: Path, name: str) -> None:
    columns = {
        "documents.csv": "document_id,set,kind,story_url,story_file_size,wiki_url,wiki_title,story_word_count,"
        "story_start,story_end",
        "qaps.csv": "document_id,set,question,answer1,answer2,question_tokenized,answer1_tokenized,answer2_tokenized",
        "third_party/wikipedia/summaries.csv": "document_id,set,summary,summary_tokenized",
    }[name]
    with open(root / "narrativeqa" / name, encoding="utf-8", newline="") as stream:
        header, *rows = list(csv.reader(stream))
    assert ",".join(header) == columns
    assert {row[1] for row in rows} == {"train", "valid", "test"}
    assert all(len(row) == len(header) for row in rows)
    assert all((root / "narrativeqa/tmp" / f"{row[0]}.content").is_file() for row in rows)


def test_world_json_counts_what_was_written(root: Path) -> None:
    content = read_json(root / "world.json")
    assert World.model_validate(content["params"]["world"]) == WORLD
    assert content["counts"]["wikipedia"]["passages"] == len(articles(root))
    assert content["counts"]["qmsum"]["test"] == {"documents": 8, "questions": 40}


def test_more_questions_than_facts_asks_each_fact_once() -> None:
    scene = draw_scene(DEMOS["nq"].family, Namer("train"), seeded(1), 1000)
    assert len(scene.questions) == 3 * len(scene.pages) == len({question.fact for question in scene.questions})


def test_used_up_names_are_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "FIRST", ("Bel", "Kor"))
    monkeypatch.setattr(names, "MIDDLE", ("a", "o"))
    namer, rng = Namer("pretraining"), seeded(1)
    with pytest.raises(ConfigError, match=r"use up the names of the split 'pretraining'.*lower world"):
        [namer.subject(rng) for _ in range(10_000)]
