"""What a study takes from outside: planning sees that it changed, or that it is not there."""

import os
import re
import shutil

import pytest

from retrotune.runtime.files import listing, write_json
from retrotune.study.artifacts import Artifact
from retrotune.study.config import load_config
from retrotune.study.outside import missing, read_by_jobs, read_by_study
from retrotune.study.paths import Paths
from retrotune.study.resolve import resolve
from retrotune.study.stages import ConvertParams

STUDY = {
    "study": "s",
    "data_root": "data",
    "datasets": {"nq": {"reader": "nq", "path": "nq"}},
    "corpora": {"wiki": {"reader": "text", "path": "wiki"}},
    "chunkings": {"words": {}},
    "retrievers": {
        "own": {"query_model": "./encoders/query", "passage_model": "./encoders/passage", "pooling": "cls"},
        "worse": {"kind": "degraded", "base": "own"},
        "bm25": {"kind": "bm25"},
    },
    "indexes": {"flat": {}},
    "retrievals": {
        "own2": {"retriever": "own", "index": "flat", "corpus": "wiki", "chunking": "words", "top_k": 2},
        "worse2": {"retriever": "worse", "index": "flat", "corpus": "wiki", "chunking": "words", "top_k": 2},
        "bm2": {"retriever": "bm25", "corpus": "wiki", "chunking": "words", "top_k": 2},
    },
    "models": {
        "folder": {"family": "gpt", "size": "xs", "path": "weights/folder"},
        "again": {"family": "gpt", "size": "xs", "path": "weights/folder"},
        "checkpoint": {
            "family": "retro",
            "size": "xs",
            "checkpoint": {"path": "weights/old", "tokenizer": "weights/t"},
        },
        "package": {"family": "gpt", "size": "xs", "checkpoint": {"package": "a==1", "path": "a/b.gguf"}},
        "hub": {"family": "gpt", "size": "xs", "hub": "who/what"},
    },
    "methods": {"zeroshot": {"kind": "zeroshot"}},
    "grid": {"retrievals": ["own2", "worse2", "bm2"]},
}


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("weights/folder/.git", "weights/old/iter_1/mp_rank_00", "encoders/query", "encoders/passage"):
        os.makedirs(folder)
    for file in ("weights/folder/model.safetensors", "weights/old/iter_1/mp_rank_00/model.pt", "weights/t",
                 "weights/folder/.git/HEAD", "encoders/query/w.bin", "encoders/passage/w.bin"):  # fmt: skip
        put(file, "12345")
    for file in ("config.json", "tokenizer.json"):
        put(f"weights/folder/{file}", "{}")
    return load_config(STUDY)


def put(path, text, time=1_000_000_000):
    with open(path, "w") as stream:
        stream.write(text)
    os.utime(path, ns=(time, time))


def text(config, stage, **wildcards):
    return resolve(config, stage, wildcards).text()


@pytest.mark.parametrize("content", ["67890", "123456"])
def test_weights_overwritten_in_place_are_fetched_again(config, content):
    before = text(config, "fetch_model", model="folder")
    assert text(config, "fetch_model", model="folder") == before
    put("weights/folder/model.safetensors", content, time=999_999_999)  # older than before, too
    assert text(config, "fetch_model", model="folder") != before


def test_what_is_hidden_in_a_folder_is_none_of_it(config):
    before = text(config, "fetch_model", model="folder")
    put("weights/folder/.git/HEAD", "other", time=5)
    assert text(config, "fetch_model", model="folder") == before
    relink("weights/folder/config.json")
    assert listing("weights/folder")["config.json"] == (-1, 0)


def test_files_of_a_folder_that_no_one_reads_rerun_nothing(config):
    put("weights/folder/config.json", "{}")
    before = text(config, "fetch_model", model="folder")
    for name in ("README.md", "pytorch_model.bin", "consolidated.safetensors"):
        put(f"weights/folder/{name}", "other")
    assert text(config, "fetch_model", model="folder") == before
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        put(f"weights/folder/{name}", "{ }")
        assert text(config, "fetch_model", model="folder") != before
        before = text(config, "fetch_model", model="folder")


def test_a_changed_checkpoint_or_tokenizer_is_converted_again(config):
    seen = {text(config, "convert_model", model="checkpoint")}
    put("weights/old/iter_1/mp_rank_00/model.pt", "other")
    seen.add(text(config, "convert_model", model="checkpoint"))
    put("weights/t", "another one")
    seen.add(text(config, "convert_model", model="checkpoint"))
    assert len(seen) == 2 + 1 - (len("other") == len("12345"))


def test_a_checkpoint_may_be_deleted_when_it_is_converted(config):
    params = resolve(config, "convert_model", {"model": "checkpoint"})
    assert isinstance(params, ConvertParams)
    manifest = Paths.of(config).model_manifest("checkpoint")
    shutil.rmtree("weights")
    assert text(config, "convert_model", model="checkpoint") != params.text()
    write_json(manifest, {"params": params.recorded()})
    assert text(config, "convert_model", model="checkpoint") == params.text()
    assert missing(config, ["checkpoint"], []) == []


def test_a_tokenizer_may_be_deleted_when_its_checkpoint_is_converted(config):
    params = resolve(config, "convert_model", {"model": "checkpoint"})
    write_json(Paths.of(config).model_manifest("checkpoint"), {"params": params.recorded()})
    os.remove("weights/t")
    assert text(config, "convert_model", model="checkpoint") == params.text()
    put("weights/old/iter_1/mp_rank_00/model.pt", "another")
    assert text(config, "convert_model", model="checkpoint") != params.text()


def test_a_folder_that_is_gone_is_missing_although_its_model_was_made(config):
    """Its model is links to the folder's files."""
    write_json(Paths.of(config).model_manifest("folder"), {})
    assert missing(config, ["folder"], []) == []
    shutil.rmtree("weights/folder")
    assert [lacking.entries for lacking in missing(config, ["folder"], [])] == [["models.folder"]]


def retro_of(folder):
    write_json(f"{folder}/config.json", {"model_type": "own", "cross_attention_layers": [1]})


@pytest.mark.parametrize(
    ("break_it", "why"),
    [
        (retro_of, "a model of type own with .* retro, not gpt: correct models.folder.family, or"),
        (lambda folder: write_json(f"{folder}/config.json", {"n_positions": 512}), "takes 512 tokens.*max_length=1024"),
        (lambda folder: os.remove(f"{folder}/config.json"), r"no model there \(no config.json\)"),
        (lambda folder: write_json(f"{folder}/adapter_config.json", {}), "holds an adapter"),
        (lambda folder: write_json(f"{folder}/config.json", {"auto_map": {"a": ""}}), "models.folder.trust_remote"),
        (lambda folder: os.remove(f"{folder}/tokenizer.json"), "no tokenizer there"),
        (lambda folder: os.remove(f"{folder}/model.safetensors"), "no model.safetensors and no"),
        (lambda folder: relink(f"{folder}/model.safetensors"), "model.safetensors: a link to gone, where no file is"),
        (lambda folder: relink(f"{folder}/tokenizer.json"), "tokenizer.json: a link to gone, where no file is"),
    ],
)  # fmt: skip
def test_a_folder_that_no_cell_could_use_is_named_before_the_first_job(config, break_it, why):
    assert missing(config, ["folder"], []) == []
    break_it("weights/folder")
    [unfit] = missing(config, ["folder"], [])
    assert re.match(f"models.folder.path: weights/folder.*{why}", str(unfit))


def test_an_encoder_with_a_link_to_nothing_is_named_before_the_first_job(config):
    relink("encoders/query/w.bin")
    [unfit] = missing(config, [], ["own"])
    assert str(unfit).startswith("retrievers.own: ")
    assert "encoders/query/w.bin: a link to gone, where no file is" in str(unfit)


def test_the_family_of_what_was_fetched_is_compared_again(config):
    folder = Paths.of(config).model("hub")
    assert missing(config, ["hub"], []) == []
    retro_of(folder)
    assert missing(config, ["hub"], []) == [], "not whole yet"
    write_json(f"{folder}/manifest.json", {})
    assert "models.hub.hub: " in str(missing(config, ["hub"], [])[0])


def relink(file):
    os.remove(file)
    os.symlink("gone", file)


def test_an_encoder_in_the_home_folder(config, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    home = load_config({**STUDY, "retrievers": {**STUDY["retrievers"], "own": {"query_model": "~/encoders/query"}}})
    before = text(home, "embed_passages", retriever="own")
    put("encoders/query/w.bin", "67890", time=7)
    assert text(home, "embed_passages", retriever="own") != before


def test_an_encoder_overwritten_in_place_embeds_and_searches_again(config):
    embed = text(config, "embed_passages", retriever="own")
    searches = {name: text(config, "cache_neighbors", retrieval=name, dataset="nq") for name in ("own2", "worse2")}
    put("encoders/query/w.bin", "67890", time=7)
    assert text(config, "embed_passages", retriever="own") == embed
    for name, before in searches.items():
        assert text(config, "cache_neighbors", retrieval=name, dataset="nq") != before
    put("encoders/passage/w.bin", "67890", time=7)
    assert text(config, "embed_passages", retriever="own") != embed


RAW = {
    ("prepare_train", "dataset", "nq"): {"train", "dev"},
    ("prepare_test", "dataset", "nq"): {"dev"},
    ("chunk_corpus", "corpus", "wiki"): {"wiki"},
    ("train_tokenizer", "tokenizer", "bpe"): {"wiki"},
    ("pretrain_model", "model", "trained"): {"wiki"},
    ("cache_pretraining_neighbors", "pretraining", "reading"): {"wiki"},
}


def test_raw_files_overwritten_in_place_are_read_again(config):
    recipe = {"corpora": ["wiki"], "tokenizer": "bpe", "retrieval": "reading"}
    reading = {"retriever": "bm25", "corpus": "wiki", "chunking": "words", "gpt": {"num_contexts": 1}}
    own = load_config(
        {
            **STUDY,
            "tokenizers": {"bpe": {"corpora": ["wiki"]}},
            "retrievals": {**STUDY["retrievals"], "reading": {**reading}},
            "pretrainings": {"reading": {**recipe, "neighbors_per": "document"}},
            "models": {"trained": {"family": "gpt", "size": "xs", "pretraining": "reading"}},
        }
    )
    files = {"train": "data/nq/NQ-open.train.jsonl", "dev": "data/nq/NQ-open.dev.jsonl", "wiki": "data/wiki/a.txt"}
    for folder in ("data/nq", "data/wiki"):
        os.makedirs(folder)
    for file in files.values():
        put(file, "12345")

    def texts():
        return {job: text(own, job[0], **{"chunking": "words", job[1]: job[2]}) for job in RAW}

    for name, file in files.items():
        before = texts()
        assert texts() == before
        put(file, "67890", time=5)
        assert {job for job, now in texts().items() if now != before[job]} == {job for job in RAW if name in RAW[job]}


def test_files_that_the_workflow_makes_are_no_raw_files_of_others(config):
    world = load_config({**{key: value for key, value in STUDY.items() if key != "data_root"}, "world": {}})
    assert resolve(world, "prepare_train", {"dataset": "nq"}).raw == ""


def test_what_is_missing_is_named_with_all_that_name_it(config):
    models, retrievers = read_by_study(config)
    assert retrievers == {"own", "bm25"}
    assert missing(config, models, retrievers) == []
    shutil.rmtree("weights")
    shutil.rmtree("encoders/passage")
    assert [str(lacking) for lacking in missing(config, models, retrievers)] == [
        "models.again, models.folder: weights/folder is not there yet: put a model folder in transformers layout there",
        "models.checkpoint: weights/old is not there yet: put the checkpoint to convert there",
        "models.checkpoint: weights/t is not there yet: put its tokenizer there",
        "retrievers.own: ./encoders/passage is not there yet: put the encoder's folder there",
    ]


@pytest.mark.parametrize(
    ("rule", "wildcards", "reads"),
    [
        ("fetch_model", {"model": "folder"}, ({"folder"}, set())),
        ("convert_model", {"model": "checkpoint"}, ({"checkpoint"}, set())),
        ("embed_passages", {"retriever": "own"}, (set(), {"own"})),
        ("cache_neighbors", {"retrieval": "worse2", "dataset": "nq"}, (set(), {"own"})),
        ("measure_retrieval", {"retrieval": "bm2", "dataset": "nq"}, (set(), {"bm25"})),
        ("predict_cell", {"model": "folder", "retrieval": "own2"}, (set(), set())),
    ],
)
def test_a_job_reads_its_own_folders_only(config, rule, wildcards, reads):
    assert read_by_jobs(config, [Artifact("made", rule, tuple(wildcards.items()))]) == reads
