"""What a changed configuration runs again: for each field of the schema, exactly the stages that use it."""

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from rerun_cases import ROWS, STUDY, Job, changed, jobs

from retrotune.entries import Entry
from retrotune.errors import ConfigError
from retrotune.runtime.files import write_text
from retrotune.study import resolve as resolving
from retrotune.study import stages
from retrotune.study.cells import COORDINATES
from retrotune.study.config import Config, load_config
from retrotune.study.config import indexes as index_entries
from retrotune.study.config import retrievers as retriever_entries
from retrotune.study.paths import REPORT_STAGES
from retrotune.study.resolve import RERUNS_NOTHING
from retrotune.study.stages import STAGES, StageParams

REPORT = set(REPORT_STAGES)
REACHED_OTHERWISE = {
    ("download_source", "source"): "it is the job's wildcard",
    **{("collect_metrics", f"cells.{name}"): "they are the job's cells" for name in COORDINATES},
    ("diagnose_cells", "effect"): "it is a margin in a file of claims (tests/unit/test_diagnosis.py)",
    **{(stage, "reader_version"): "it is the code's" for stage in ("prepare_train", "prepare_test")},
    **{(name, "files"): "they are the disk's" for name, cls in STAGES.items() if "files" in cls.model_fields},
}
"""Fields of stages that no field of the configuration changes, and why; those of the disk have a test below."""


def entries_in(annotation: Any) -> list[type[BaseModel]]:
    """The entries that a field may hold, in dictionaries and tuples too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [entry for part in get_args(annotation) for entry in entries_in(part)]


def leaves(annotation: Any, place: str, within: tuple[type[BaseModel], ...] = ()) -> Iterator[str]:
    """Fields that hold values, by their place in the schema: names of entries left out, a method's kind put in.

    An entry in one of its own kind is what stages use, and no part of a study.
    """
    entries = [entry for entry in entries_in(annotation) if entry not in within]
    if not entries:
        yield place
    for entry in entries:
        kind = f".{get_args(entry.model_fields['kind'].annotation)[0]}" if len(entries) > 1 else ""
        for name, field in entry.model_fields.items():
            yield from leaves(field.annotation, f"{place}{kind}.{name}".lstrip("."), (*within, entry))


def in_schema(place: str) -> str:
    """A place in `STUDY` as `leaves` names it. Methods are called by their kind there."""
    section, *rest = place.split(".")
    named = isinstance(STUDY.get(section), dict | list) and section not in ("world", "methods")
    return ".".join([section, *rest[named:]])


FIELDS = set(leaves(Config, "")) - {"retrievals.gpt.num_neighbors"}  # 0 is all that a GPT can have


def resolved(config: Config) -> dict[Job, StageParams]:
    return {job: resolving.resolve(config, job[0], dict(job[1])) for job in set(jobs(config))}


@cache
def before() -> dict[Job, StageParams]:
    return resolved(load_config(STUDY))


def compared(raw: dict[str, Any]) -> list[tuple[StageParams, StageParams]]:
    """What jobs used with `STUDY` and use with another study, of jobs that both have and that run again."""
    after = resolved(load_config(raw))
    pairs = [(before()[job], after[job]) for job in before().keys() & after.keys()]
    return [(old, new) for old, new in pairs if old.text() != new.text()]


def rerun(raw: dict[str, Any]) -> set[str]:
    return {old.stage for old, _ in compared(raw)}


def parts(params: Entry, place: str = "") -> Iterator[tuple[str, Any]]:
    """Values of a stage by field, also of classes that only stages have."""
    for name in type(params).model_fields:
        value = getattr(params, name)
        items = value if isinstance(value, tuple) else (value,)
        if items and all(type(item).__module__.startswith(stages.__name__) for item in items):
            found: dict[str, list[Any]] = {}
            for item in items:
                for inner, deep in parts(item, f"{place}{name}."):
                    found.setdefault(inner, []).append(deep)
            yield from found.items()
        else:
            yield f"{place}{name}", value


def test_each_field_of_the_schema_is_in_the_table():
    known = {in_schema(place) for place in ROWS}
    assert sorted(FIELDS - known) == [], "say in rerun_cases.ROWS which stages use these fields"
    assert sorted(known - FIELDS) == [], "these fields are no longer there"


def test_what_reruns_nothing_are_fields_with_a_reason():
    fields = [*FIELDS, "rule_resources", "models.resources", "save_every", "grid", "select"]
    assert set(RERUNS_NOTHING) <= set(fields)
    assert all(RERUNS_NOTHING.values())


@pytest.mark.parametrize("place", ROWS)
def test_a_changed_field_reruns_exactly_the_stages_that_use_it(place):
    value, expected = ROWS[place]
    found = rerun(changed(place, value))
    assert found == set(expected.split())
    if any(f"{in_schema(place)}.".startswith(f"{listed}.") for listed in RERUNS_NOTHING):
        assert found <= REPORT


def test_each_field_of_a_stage_comes_from_the_configuration():
    reached = set()
    for place, (value, _) in ROWS.items():
        for old, new in compared(changed(place, value)):
            then, now = dict(parts(old)), dict(parts(new))
            differing = {name for name in then | now if then.get(name) != now.get(name)}
            others = {name for name in differing if name.startswith("cells.") and len(then[name]) != len(now[name])}
            reached |= {(old.stage, name) for name in differing - others}
    fields = {(params.stage, name) for params in before().values() for name, _ in parts(params)}
    assert {params.stage for params in before().values()} == set(STAGES), "the study has a job of every stage"
    assert sorted(fields - reached - set(REACHED_OTHERWISE)) == [], "nothing that somebody could write changes these"


def test_a_raised_number_reruns_the_stage(monkeypatch):
    for name, cls in STAGES.items():
        params = next(params for params in before().values() if params.stage == name)
        text = params.text()
        assert cls.of(text) == params
        monkeypatch.setattr(cls, "version", cls.version + 1)
        assert params.text() != text
        with pytest.raises(ConfigError, match=f"{name}: planned by version"):
            cls.of(text)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("datasets.open.prompt", None),
        ("datasets.open.max_new_tokens", 32),
        ("retrievers.published", retriever_entries.PRESETS["e5"]),
        ("indexes.exact", {"factory": index_entries.PRESETS["exact"]}),
        ("indexes.exact", {}),
        ("indexes.graph", {"factory": index_entries.PRESETS["hnsw"]}),
        ("methods.lora.finetuning", {}),
        ("methods.lora.finetuning", {"learning_rate": 1e-4}),
        ("methods.lora.rank", 32),
        ("retrofittings.fit.retrieval", "fitting"),
        ("max_length", 1024),
    ],
)
def test_what_is_written_out_is_what_it_stands_for(place, value):
    assert rerun(changed(place, value)) == set()


def test_the_prompt_of_a_model_written_out():
    """Also for an instructed model: `instruct` follows the model, `base` does not."""
    assert rerun(changed("datasets.open.prompt", "base")) == set()
    instructed = changed("models.hub.instruct", True)
    plain, written = copy.deepcopy(instructed), copy.deepcopy(instructed)
    for dataset in plain["datasets"].values():
        dataset["prompt"] = "base"
    for dataset in written["datasets"].values():
        dataset["prompt"] = "instruct"
    labels = {"collect_metrics", "make_tables", "write_report"}
    assert rerun(plain) == labels, "as if it were not instructed, but for labels and the table of instructed models"
    of_hub = {
        job: params.text() for job, params in resolved(load_config(instructed)).items() if ("model", "hub") in job[1]
    }
    of_written = resolved(load_config(written))
    assert all(of_written[job].text() == text for job, text in of_hub.items())


def test_a_label_and_the_layout_of_the_other_family():
    assert rerun(changed("models.folder.size", "another")) == {"collect_metrics"}
    pairs = compared(changed("retrievals.dense.retro", {"num_neighbors": 3}))
    assert {params.prompting.family for pair in pairs for params in pair} == {"retro"}
    pairs = compared(changed("retrievals.dense.gpt", {"num_contexts": 1}))
    assert {params.prompting.family for pair in pairs for params in pair} == {"gpt"}


def test_files_outside_of_the_workflow(tmp_path):
    """A folder whose files have changed is copied, converted or searched with again."""
    folders = {name: tmp_path / name for name in ("model", "checkpoint", "tokenizer", "encoder")}
    raw = copy.deepcopy(STUDY)
    raw["models"]["folder"]["path"] = str(folders["model"])
    raw["models"]["released"]["checkpoint"].update(path=str(folders["checkpoint"]), tokenizer=str(folders["tokenizer"]))
    raw["retrievers"]["published"] = {"query_model": str(folders["encoder"])}
    for folder in folders.values():
        write_text(folder / "weights", "1")
    then = {job: params.text() for job, params in resolved(load_config(raw)).items()}
    for name, expected in (
        ("model", {"fetch_model"}),
        ("checkpoint", {"convert_model"}),
        ("tokenizer", {"convert_model"}),
        ("encoder", {"embed_passages", "cache_neighbors", "measure_retrieval"}),
    ):
        write_text(folders[name] / "weights", "23")
        now = {job: params.text() for job, params in resolved(load_config(raw)).items()}
        assert {job[0] for job in now if now[job] != then[job]} == expected
        then = now


def test_the_code_of_a_dataset(monkeypatch):
    record = load_config(STUDY).datasets["open"].record
    monkeypatch.setitem(vars(record), "version", record.version + 1)
    assert rerun(STUDY) == {"prepare_train", "prepare_test"}
