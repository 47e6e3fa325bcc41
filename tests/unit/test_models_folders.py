"""Model folders: fetched with a manifest, loaded only if whole, named in what is made with them."""

import json
import shutil
from fnmatch import fnmatch

import huggingface_hub
import pandas as pd
import pytest
import torch
from folder_cases import tokenizer_of, write_folder
from methods_cases import FAMILIES, tiny_model
from safetensors.torch import load_file, save_file

from retrotune.data.datasets import SPECS, Example
from retrotune.errors import ModelError
from retrotune.models.fetch import fetch_base_model, fetch_model
from retrotune.models.loading import load_model, load_tokenizer, model_facts
from retrotune.models.sizes import departures
from retrotune.preparing.examples import write_examples
from retrotune.runtime.files import sha256, write_json, write_parquet
from retrotune.study.cells import Cell
from retrotune.study.config import CorpusEntry, Finetuning, LoraMethod, PassageLayout
from retrotune.study.stages import FetchParams, FinetuneParams, Prompting, TrainTokenizerParams
from retrotune.training import finetune
from retrotune.training.tokenizer import train_tokenizer, wrap_tokenizer

WEIGHTS = "model.safetensors"
WEIGHT = "model.layers.1.mlp.up_proj.weight"
REMEDY = "is made again by its `models` target once it is deleted"
CASES = [(family, tied) for family in FAMILIES for tied in (False, True)]


def save(folder, family="gpt", **changes):
    model = tiny_model(family, **changes)
    model.save_pretrained(folder)
    return model


def change_weights(folder, change):
    """Rewrite a folder's weights after `change` of their mapping."""
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def loading_fails(folder):
    with pytest.raises(ModelError) as error:
        load_model(folder)
    message = str(error.value)
    assert message.startswith(f"{folder}: ")
    return message


@pytest.mark.parametrize(("family", "tied"), CASES)
def test_a_whole_folder_is_loaded(tmp_path, family, tied):
    saved = save(tmp_path, family, tie_word_embeddings=tied)
    assert ("lm_head.weight" in load_file(tmp_path / WEIGHTS)) != tied, "a tied matrix is stored once"
    loaded = load_model(tmp_path)
    assert not loaded.training
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in saved.state_dict().items())
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied


@pytest.mark.parametrize(("family", "tied"), CASES)
def test_a_missing_weight_is_named(tmp_path, family, tied):
    save(tmp_path, family, tie_word_embeddings=tied)
    change_weights(tmp_path, lambda weights: weights.pop(WEIGHT))
    message = loading_fails(tmp_path)
    assert f"1 missing ({WEIGHT})" in message
    assert REMEDY in message


def test_missing_embeddings_are_named_whether_tied_or_not(tmp_path):
    for tied, expected in ((False, "1 missing (lm_head.weight)"), (True, "2 missing (lm_head.weight, model.embed")):
        save(tmp_path, tie_word_embeddings=tied)
        stored = "model.embed_tokens.weight" if tied else "lm_head.weight"
        change_weights(tmp_path, lambda weights, stored=stored: weights.pop(stored))
        assert expected in loading_fails(tmp_path)


def test_other_weights_are_named_and_counted(tmp_path):
    save(tmp_path, "retro")

    def change(weights):
        weights[WEIGHT] = torch.zeros(3, 2)
        for number in range(5):
            weights[f"more.{number}"] = torch.zeros(2)

    change_weights(tmp_path, change)
    message = loading_fails(tmp_path)
    assert "5 unexpected (more.0, more.1, more.2, ...)" in message
    assert f"1 of another shape ({WEIGHT} (3, 2), not (48, 32))" in message
    assert "missing" not in message


def test_weights_of_the_other_family_do_not_fit(tmp_path):
    save(tmp_path, "retro")
    config = json.loads((tmp_path / "config.json").read_text())
    write_json(tmp_path / "config.json", {**config, "cross_attention_layers": []})
    assert "unexpected (model.layers.1.cross_attention." in loading_fails(tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5])
def test_a_truncated_file_is_a_model_error(tmp_path, family, share):
    save(tmp_path, family)
    data = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(data[: int(share * len(data))])
    message = loading_fails(tmp_path)
    assert "truncated or damaged" in message
    assert REMEDY in message
    with pytest.raises(ModelError, match="truncated or damaged .*; fetch the model again"):
        fetch_model(tmp_path / "out", path=tmp_path)


def test_a_folder_without_configuration_weights_or_tokenizer(tmp_path):
    assert "no config.json" in loading_fails(tmp_path)
    save(tmp_path)
    with pytest.raises(ModelError, match="no usable tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    assert "no model.safetensors and no model.safetensors.index.json" in loading_fails(tmp_path)
    (tmp_path / "config.json").unlink()
    assert "no config.json" in loading_fails(tmp_path)


def test_a_local_folder_is_linked_and_described(tmp_path):
    model = save(tmp_path / "source", "llama", tie_word_embeddings=True)
    write_json(tmp_path / "source/manifest.json", {"not": "ours"})
    fetch_model(tmp_path / "out", path=tmp_path / "source")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["num_parameters"] == model.num_parameters()
    assert manifest["weights_sha256"] == {WEIGHTS: sha256(tmp_path / "source" / WEIGHTS)}
    assert manifest["source"] == {"hub": None, "path": str(tmp_path / "source")}
    assert manifest["model_type"] == "llama"
    assert (tmp_path / "out" / WEIGHTS).is_symlink()
    assert load_model(tmp_path / "out").num_parameters() == model.num_parameters()


def test_what_a_study_fetched_is_recorded(tmp_path):
    write_folder(tokenizer_of(tmp_path / "source", 40), tiny_model("gpt"))
    params = FetchParams(path=str(tmp_path / "source"), files={"model.safetensors": (1, 2)})
    fetch_base_model(params, tmp_path / "out", "mine", "gpt", 64)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert FetchParams.of(json.dumps(manifest["params"])) == params
    with pytest.raises(ModelError, match="needs `hub` or `path`"):
        fetch_base_model(FetchParams(), tmp_path / "none", "mine", "gpt", 64)


def test_a_manifest_names_each_weights_file(tmp_path):
    model = tiny_model("gpt")
    model.save_pretrained(tmp_path / "source", max_shard_size="40KB")
    shards = sorted((tmp_path / "source").glob("*.safetensors"))
    fetch_model(tmp_path / "out", path=tmp_path / "source")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert len(shards) > 1
    assert manifest["weights_sha256"] == {shard.name: sha256(shard) for shard in shards}
    assert manifest["num_parameters"] == model.num_parameters()
    load_model(tmp_path / "out")


def test_nothing_of_an_earlier_source_is_left(tmp_path, monkeypatch):
    def download(hub, local_dir, **options):
        whole = tmp_path / hub.split("/")[1]
        for file in whole.iterdir():
            if any(fnmatch(file.name, pattern) for pattern in options["allow_patterns"]):
                shutil.copy(file, local_dir)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    out, single, sharded = (tmp_path / name for name in ("model", "one", "two"))
    tiny_model("gpt").save_pretrained(single)
    tiny_model("gpt").save_pretrained(sharded, max_shard_size="40KB")
    shards = [file.name for file in sorted(sharded.glob("*.safetensors"))]
    for _ in range(2):
        fetch_model(out, hub="some/one")
        assert [file.name for file in out.glob("*.safetensors")] == [WEIGHTS]
        fetch_model(out, hub="some/two")
        assert [file.name for file in sorted(out.glob("*.safetensors"))] == shards
    fetch_model(out, path=single)
    assert [file.name for file in out.glob("*.safetensors")] == [WEIGHTS]
    fetch_model(out, path=sharded)
    assert [file.name for file in sorted(out.glob("*.safetensors"))] == shards


def test_what_cannot_be_fetched_is_explained(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match=r"nowhere: no model there \(no config.json\)"):
        fetch_model(tmp_path / "out", path=tmp_path / "nowhere")
    with pytest.raises(ModelError, match="needs `hub` or `path`"):
        fetch_model(tmp_path / "out")
    write_json(tmp_path / "pickled/config.json", {})
    with pytest.raises(ModelError, match="only safetensors weights are read"):
        fetch_model(tmp_path / "out", path=tmp_path / "pickled")

    def offline(hub, **options):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ModelError, match=r"some/model: cannot be fetched \(no network\).*set models.NAME.path"):
        fetch_model(tmp_path / "hub", hub="some/model")
    assert not list(tmp_path.glob("*/manifest.json")), "no manifest says that the model is whole"


def test_departures_of_norms_and_encoder():
    plain = {"num_hidden_layers": 6, "chunk_length": 64, "retrieved_length": 128}
    retro = tiny_model("retro").config
    for key, value in {**plain, "cross_attention_layers": [5]}.items():
        setattr(retro, key, value)
    assert departures(retro) == []
    for key, value, stated in (
        ("encoder_num_layers", 1, "layers of the neighbor encoder: 1 (2)"),
        ("norm", "rmsnorm", "norms are rmsnorm (layernorm1p)"),
        ("final_norm", False, "the decoder does not end in a norm"),
    ):
        usual = getattr(retro, key)
        setattr(retro, key, value)
        assert departures(retro) == [stated]
        setattr(retro, key, usual)
    assert departures(tiny_model("gpt", encoder_num_layers=1).config) == [], "a GPT has no neighbor encoder"


PROMPTING = {"family": "gpt", "template": SPECS["nq"].prompt_of("base"), "layout": PassageLayout()}
FINETUNING = FinetuneParams(
    prompting=Prompting(**PROMPTING, max_length=64, max_new_tokens=4),
    method=LoraMethod(kind="lora", rank=2),
    recipe=Finetuning(batch_size=2, max_steps=1),
)


def test_training_on_a_fetched_model_names_its_inputs(tmp_path):
    (tmp_path / "text.txt").write_text("Who rules the town? The mayor rules the town.\n", encoding="utf-8")
    corpora = {"text": CorpusEntry(reader="text", path="text.txt")}
    train_tokenizer(TrainTokenizerParams(corpora=corpora, vocab_size=280), tmp_path, tmp_path / "tokenizer.json")
    tokenizer = wrap_tokenizer(tmp_path / "tokenizer.json")
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = tiny_model("gpt", **ids)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    fetch_model(tmp_path / "model", path=tmp_path / "source")
    asked = [Example("a", "Who rules?", ("mayor",)), Example("b", "Who?", ("he",))]
    write_examples(tmp_path / "train.parquet", asked, with_answer=True)
    found = {"question_id": ["a"], "rank": 0, "passage_id": "p", "title": "T", "text": "mayor", "score": 1.0}
    write_parquet(tmp_path / "neighbors.parquet", pd.DataFrame(found))
    files, cell = [tmp_path / "model", tmp_path / "train.parquet"], Cell("g", "lora", "d", "r", 0)
    for neighbors in (None, tmp_path / "neighbors.parquet"):
        out = tmp_path / "out"
        finetune.finetune_cell(FINETUNING, cell, *files, neighbors, out, tmp_path / "work")
        assert json.loads((out / "train.json").read_text())["inputs"] == {
            "examples": sha256(tmp_path / "train.parquet"),
            "neighbors": sha256(neighbors) if neighbors else None,
            "model": sha256(tmp_path / "model/manifest.json"),
        }


def test_facts_of_a_base_model_for_tables(tmp_path):
    nothing = {"num_parameters": None, "departures": [], "params": None, "fingerprint": None}
    assert model_facts(tmp_path) == nothing
    written = {"num_parameters": 5, "departures": ["d"], "params": {"version": 2}}
    write_json(tmp_path / "manifest.json", {**written, "seconds": 1.0})
    assert model_facts(tmp_path) == {**nothing, **written}


def test_checkpoints_belong_to_one_version_of_the_stage(monkeypatch):
    inputs = {"examples": "1", "neighbors": None, "model": "2"}
    before = finetune._identity(FINETUNING, 0, inputs)
    assert finetune._identity(FINETUNING, 0, dict(inputs)) == before
    assert finetune._identity(FINETUNING, 1, inputs) != before
    assert finetune._identity(FINETUNING, 0, {**inputs, "model": "3"}) != before
    assert finetune._identity(FINETUNING, 0, {**inputs, "examples": None, "neighbors": "1"}) != before
    monkeypatch.setattr(FinetuneParams, "version", FinetuneParams.version + 1)
    assert finetune._identity(FINETUNING, 0, inputs) != before
