"""Kinds of values of the schema: seeds, names and paths, each checked wherever the schema has one."""

import re
import types
import typing
from pathlib import Path

import pytest
from pydantic import BaseModel
from test_config import SMALL, changed

from retrotune.entries import LONGEST_NAME, Seed
from retrotune.errors import ConfigError, DataError
from retrotune.study.config import Config, load_config
from retrotune.study.paths import LOGS, Paths
from retrotune.study.raw import corpus_files, find_corpus_files

TEXTS = {"hub", "cue", "factory", "package", "query_prefix", "passage_prefix", "kind"}
"""Fields of text that is neither a path nor a name, beside those of `select`, which are held against entries."""


def kinds(annotation):
    """The types that a field's annotation is made of, annotated ones as they are."""
    if typing.get_origin(annotation) is typing.Annotated:
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, tuple, dict, typing.Literal):
        return [kind for part in typing.get_args(annotation) for kind in kinds(part)]
    return [annotation]


def fields(model=Config, seen=None):
    """(class, field's name, its kinds) of all fields of the schema."""
    seen = seen if seen is not None else set()
    if model in seen:
        return
    seen.add(model)
    for name, annotation in typing.get_type_hints(model, include_extras=True).items():
        if name not in model.model_fields:
            continue
        found = kinds(annotation)
        yield model, name, found
        for kind in found:
            for part in kinds(typing.get_args(kind)[0]) if typing.get_origin(kind) is typing.Annotated else [kind]:
                if isinstance(part, type) and issubclass(part, BaseModel):
                    yield from fields(part, seen)


def test_each_seed_and_each_path_of_the_schema_is_of_their_type():
    found = list(fields())
    seeds = [(model.__name__, name) for model, name, _ in found if "seed" in name]
    assert len(seeds) >= 6
    for model, name, parts in found:
        place = f"{model.__name__}.{name}"
        if "seed" in name:
            assert set(parts) <= {Seed, type(None), Ellipsis}, place
        if str in parts:
            assert name in TEXTS or model.__name__ == "Select", f"{place}: a path, a name, or text?"


@pytest.mark.parametrize("seed", [-1, 2**32, 20260131120000])
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("grid.seeds", lambda seed: [7, seed]),
        ("select", lambda seed: {"seed": seed}),
        ("select", lambda seed: {"seed": [seed]}),
        ("world", lambda seed: {"seed": seed}),
        ("pretrainings.p.seed", lambda seed: seed),
        ("retrievers.any", lambda seed: {"kind": "random", "seed": seed}),
    ],
)
def test_seeds_that_nothing_can_be_drawn_with_are_refused_alone(path, value, seed):
    load_config(changed(path, value(2**32 - 1)))
    with pytest.raises(ConfigError, match=rf"(?s)seeds?(\.\d)?: Input should be [^\n]* \(found {seed}\)$") as error:
        load_config(changed(path, value(seed)))
    assert len(str(error.value).splitlines()) == 2, "what follows from it is not told"


PLACES = [
    ("data_root", "data_root", {}),
    ("results_dir", "results_dir", {}),
    ("resources_dir", "resources_dir", {}),
    ("datasets.nq.path", "datasets.nq.path", {}),
    ("corpora.wiki.path", "corpora.wiki.path", {}),
    ("models.g", "models.g.path", {"family": "gpt", "size": "xs", "path": None}),
    ("models.c.checkpoint", "models.c.checkpoint.path", {"path": None}),
    ("models.c.checkpoint", "models.c.checkpoint.tokenizer", {"path": "x", "tokenizer": None}),
    ("retrievers.e", "retrievers.e.query_model", {"query_model": None}),
    ("retrievers.e", "retrievers.e.passage_model", {"query_model": "x", "passage_model": None}),
]


def with_place(key, full_key, values, path):
    raw = changed("models.c", {"family": "gpt", "size": "xs"})
    return changed(key, {name: path if value is None else value for name, value in values.items()} or path, raw)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place[1])
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "a path is not empty"),
        (" runs", "begins and ends with no blank"),
        ("a\nb", "no line break"),
        ("a\0b", "control character"),
        ("runs/{year}", "braces are wildcards for Snakemake"),
        ("$SCRATCH/runs", "$SCRATCH is not filled in"),
        ("${HOME}/runs", "${HOME} is not filled in"),
        ("gs://bucket/runs", "not an address"),
        ("~no-such-user-here/runs", "who is not known here"),
        ("./~", "`~` is the home folder"),
        ("runs/" + 128 * "é", "at most 255 bytes"),
    ],
)
def test_paths_that_lead_elsewhere_than_they_look_are_refused_by_key(place, path, message):
    with pytest.raises(ConfigError) as error:
        load_config(with_place(*place, path))
    assert f"\n  {place[1]}: " in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place[1])
@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("~/big files", "/home/ada/big files"),
        ("/a//b/./c/", "/a/b/c"),
        ("//a", "/a"),
        ("x/../../[v1] b", "../[v1] b"),
        ("a/b/c~", "a/b/c~"),
    ],
)
def test_paths_are_written_in_one_way(place, path, meant, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    for written in (path, meant):
        raw = with_place(*place, written)
        raw["models"] = {name: entry for name, entry in raw["models"].items() if len(entry) > 2}
        found = load_config(raw)
        for name in place[1].split("."):
            found = found[name] if isinstance(found, dict) else getattr(found, name)
        assert found == meant


def test_folders_that_are_made_are_of_their_own():
    for key in ("results_dir", "resources_dir"):
        for path in ("./", "/", "runs/.."):
            with pytest.raises(ConfigError, match=f"{key}: a folder of its own is needed"):
                load_config(changed(key, path))


def test_a_parent_behind_a_link_is_refused(tmp_path):
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "deep")
    with pytest.raises(ConfigError, match="data_root: `..` behind a link"):
        load_config(changed("data_root", f"{tmp_path}/link/../data"))
    assert load_config(changed("data_root", f"{tmp_path}/disk/../data")).data_root == f"{tmp_path}/data"


def test_encoders_on_the_hub_and_in_packages_keep_their_names():
    for name, meant in (
        ("owner/model-v1.5", None),
        ("model", None),
        ("package:some_package/folder", None),
        ("./owner/model/", "./owner/model"),
        ("owner/model/", "./owner/model"),
        ("../model", None),
    ):
        for written in (name, meant or name):
            entry = load_config(changed("retrievers.e", {"query_model": written})).retrievers["e"]
            assert entry.query_model == (meant or name)


def test_only_the_path_of_a_corpus_is_a_glob(tmp_path):
    root = tmp_path / "data [1-3]"
    (root / "texts").mkdir(parents=True)
    (root / "texts" / "a.txt").write_text("a")
    (tmp_path / "data 2").mkdir()
    entry = load_config(
        {**changed("corpora.text", {"reader": "text", "path": "texts/*.txt"}), "data_root": "d"}
    ).corpora["text"]
    assert corpus_files(entry, root) == [root / "texts" / "a.txt"]
    (root / "texts" / "b {1}.txt").write_text("b")
    with pytest.raises(DataError, match=r"b \{1\}.txt: braces are wildcards for Snakemake"):
        find_corpus_files(entry, root)


@pytest.mark.parametrize("name", ["", ".", "..", "-x", "a b", "a/b", "Zoë", "a\n", "x" * 61])
def test_the_rule_of_names_is_told_in_words(name):
    named = changed("methods", {name: {"kind": "zeroshot"}})
    for raw, key in ((named, f"methods.{name}"), (changed("study", name), "study")):
        with pytest.raises(ConfigError) as error:
            load_config(raw)
        assert f"\n  {key}: " in str(error.value)
        assert "at most 60 letters, digits, `.`, `_`, `-` (no accents, no blanks) and begins with" in str(error.value)
    with pytest.raises(ConfigError, match=r"checkpoint.package: write NAME==VERSION.* \(found 'some-package'\)"):
        load_config(changed("models.g", {"checkpoint": {"path": "a.gguf", "package": "some-package"}}))


def test_the_longest_names_are_names_of_files():
    """Names are joined in names of logs and, by Slurm's executor, of folders; temporary files have longer ones."""
    name = "n" * LONGEST_NAME
    config = load_config(changed("methods", {name: {"kind": "zeroshot"}}))
    wildcards = re.findall(r"\{(\w+)\}", " ".join(LOGS.values()))
    values = dict.fromkeys(wildcards, name) | {"seed": str(2**32 - 1), "split": "train"}
    values |= {"source": f"{name}/train", "chunk_length": "1024"}
    paths = Paths.of(config)
    for stage, log in LOGS.items():
        files = [paths.log(stage).format(**values), paths.benchmark(stage).format(**values)]
        parts = [part for file in files for part in Path(file).parts]
        joined = "_".join(values[key].replace("/", "_") for key in re.findall(r"\{(\w+)\}", log))
        assert max(map(len, [*parts, joined])) <= 255, stage
    for file in (paths.references(name, "train"), paths.index(name, name, name, name), paths.downloaded(name)):
        assert len(f".{Path(file).name}.12345678.tmp.lock") <= 255


def test_names_that_differ_in_case_only_are_refused():
    raw = changed("methods.LoRA", {"kind": "lora"})
    with pytest.raises(ConfigError, match="methods.LoRA: differs from 'lora' in upper and lower case only: rename one"):
        load_config(raw)
    load_config({**SMALL, "chunkings": {"words100": {}, "words-100": {}}})
