"""What is fetched of a model folder, what counts as its size, and what is refused: foreign code, ids and weights."""

import io
import json
import shutil
from fnmatch import fnmatch

import huggingface_hub
import pytest
import torch
from folder_cases import relink, tokenizer_of, write_folder
from methods_cases import tiny_model
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import (
    AutoTokenizer,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    RobertaConfig,
    RobertaForCausalLM,
)

from retrotune.errors import ModelError
from retrotune.models.convert import convert_checkpoint
from retrotune.models.convert.tokenizers import write_tokenizer
from retrotune.models.fetch import fetch_base_model, fetch_model
from retrotune.models.loading import load_model, load_tokenizer, model_facts, num_parameters
from retrotune.runtime.files import write_json
from retrotune.study.config import ModelEntry
from retrotune.study.stages import FetchParams

MASK = torch.ones(16, 16).tril()[None, None]
IDS = {"vocab_size": 40, "bos_token_id": 0, "eos_token_id": 1}


def gpt2():
    return GPT2LMHeadModel(GPT2Config(n_positions=16, n_embd=16, n_layer=2, n_head=2, **IDS))


def neox():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    return GPTNeoXForCausalLM(GPTNeoXConfig(max_position_embeddings=16, **sizes, **IDS))


def gptj():
    return GPTJForCausalLM(GPTJConfig(n_positions=16, n_embd=16, n_layer=1, n_head=2, rotary_dim=4, **IDS))


def opt():
    sizes = {"hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return OPTForCausalLM(OPTConfig(word_embed_proj_dim=16, max_position_embeddings=16, **sizes, **IDS))


def llama(**changes):  # of 64 rows
    return tiny_model("llama", **changes)


ONE = torch.tensor(-1e9)
STORED = [
    (gpt2, {"transformer.h.0.attn.bias": MASK, "transformer.h.1.attn.masked_bias": ONE}),
    (neox, {"gpt_neox.layers.0.attention.bias": MASK > 0, "gpt_neox.layers.0.attention.rotary_emb.inv_freq": ONE}),
    (gptj, {"transformer.h.0.attn.bias": MASK, "transformer.h.0.attn.masked_bias": ONE}),
    (opt, {"model.decoder.version": ONE}),
    (llama, {f"model.layers.0.self_attn.rotary_emb.{name}": MASK[0, 0] for name in ("inv_freq", "cos_cached")}),
]


@pytest.mark.parametrize(("make", "buffers"), STORED, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("prefixed", [True, False])
def test_stored_buffers_are_no_weights(tmp_path, make, buffers, prefixed):
    model = make()
    tensors = model.state_dict() | buffers
    if not prefixed:  # as on the hub, where some folders hold the decoder alone
        tensors = {name.removeprefix(f"{model.base_model_prefix}."): tensor for name, tensor in tensors.items()}
    write_folder(tmp_path / "source", model, tensors)
    fetch_model(tmp_path / "out", path=tmp_path / "source")
    assert model_facts(tmp_path / "out")["num_parameters"] == sum(weight.numel() for weight in model.parameters())
    loaded = load_model(tmp_path / "out")
    assert all(torch.equal(weight, loaded.get_parameter(name)) for name, weight in model.named_parameters())


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("model.layers.0.self_attn.bias", MASK[0, 0, 0]),
        ("model.layers.0.self_attn.q_proj.bias", MASK),
        ("model.layers.0.self_attn.extra.weight", MASK),
        ("model.version", MASK),
    ],
)
def test_what_only_resembles_a_buffer_is_refused(tmp_path, name, tensor):
    model = llama()
    write_folder(tmp_path, model, {**model.state_dict(), name: tensor})
    with pytest.raises(ModelError, match=rf"1 unexpected \({name}\)"):
        load_model(tmp_path)


def test_a_tied_matrix_stored_twice_counts_once(tmp_path):
    model = llama(tie_word_embeddings=True)
    write_folder(tmp_path, model)
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= load_file(tmp_path / "model.safetensors").keys()
    assert num_parameters(tmp_path) == load_model(tmp_path).num_parameters() == model.num_parameters()
    head = model.lm_head.weight + 1
    write_folder(tmp_path, model, {**model.state_dict(), "lm_head.weight": head})
    with pytest.raises(ModelError, match=r"1 not equal to what config.json ties them to \(lm_head.weight\)"):
        load_model(tmp_path)


def clutter(folder):
    """What hub folders hold beside what is used, the same weights again among it."""
    whole = (folder / "model.safetensors").read_bytes() if (folder / "model.safetensors").exists() else b"\0" * 64
    for name in ("consolidated.safetensors", "adapter_model.safetensors", "model-00009-of-00009.safetensors"):
        (folder / name).write_bytes(whole)
    for name in ("pytorch_model.bin", "flax_model.msgpack", "tf_model.h5", "README.md", "trainer_state.json", "run.py"):
        (folder / name).write_bytes(whole)
    for name in ("onnx/model.onnx", "original/params.json", "original/tokenizer.model", "sub/model.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(whole)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("from_hub", [False, True])
def test_only_what_is_used_is_fetched_counted_and_digested(tmp_path, monkeypatch, sharded, from_hub):
    model, source, out = llama(), tmp_path / "source", tmp_path / "out"
    model.save_pretrained(source, **({"max_shard_size": "10KB"} if sharded else {}))
    tokenizer_of(source, 40)
    used = {file.name for file in source.iterdir()} - {"plain.json"}
    clutter(source)

    def download(hub, local_dir, allow_patterns, ignore_patterns=()):
        for file in source.rglob("*"):
            name = file.relative_to(source).as_posix()
            if any(fnmatch(name, p) for p in allow_patterns) and not any(fnmatch(name, p) for p in ignore_patterns):
                (local_dir / name).parent.mkdir(exist_ok=True)
                shutil.copy(file, local_dir / name)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    fetch_model(out, **({"hub": "some/model"} if from_hub else {"path": source}))
    assert {file.name for file in out.iterdir()} - {"manifest.json", ".hub"} == used
    manifest = json.loads((out / "manifest.json").read_text())
    assert set(manifest["weights_sha256"]) == {name for name in used if name.endswith(".safetensors")}
    assert manifest["num_parameters"] == model.num_parameters()
    assert load_model(out).num_parameters() == model.num_parameters()
    assert len(load_tokenizer(out)) == 40


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "only safetensors weights are read"),
        (lambda folder: relink(folder / "model.safetensors"), "model.safetensors: a link to .*nowhere, where no file"),
        (lambda folder: relink(folder / "tokenizer.json"), "tokenizer.json: a link to .*nowhere, where no file is"),
        (lambda folder: relink(folder / "config.json"), "config.json: a link to .*nowhere, where no"),
        (lambda folder: write_json(folder / "adapter_config.json", {}), "holds an adapter"),
        (lambda folder: write_json(folder / "config.json", []), "not an object but list"),
        (lambda folder: index(folder, {"a": "../model.safetensors"}), "no safetensors file beside it"),
        (lambda folder: index(folder, {"a": "model.bin"}), "no safetensors file beside it"),
        (lambda folder: index(folder, {"a": "other.safetensors"}), "other.safetensors: no such file"),
        (lambda folder: index(folder, {}), "no `weight_map`"),
    ],
)  # fmt: skip
def test_a_broken_folder_is_refused_by_name(tmp_path, break_it, message):
    source = write_folder(tokenizer_of(tmp_path / "source", 40), llama())
    break_it(source)
    with pytest.raises(ModelError, match=message):
        fetch_model(tmp_path / "out", path=source)
    assert not (tmp_path / "out/manifest.json").exists()


LINKED = ["config.json", "model-00002-of-00012.safetensors", "model.safetensors.index.json", "tokenizer.json"]


@pytest.mark.parametrize("file", LINKED)
def test_a_link_to_nothing_is_named_by_all_that_read_the_file(tmp_path, monkeypatch, file):
    source, out = tokenizer_of(tmp_path / "source", 40), tmp_path / "out"
    llama().save_pretrained(source, max_shard_size="10KB")
    fetch_model(out, path=source)
    assert load_model(out).num_parameters() == llama().num_parameters()
    (source / file).unlink()
    monkeypatch.setenv("RETROTUNE_SCRATCH", str(tmp_path / "scratch"))
    said = f"out/{file}: a link to {source}/{file}, where no file is"
    for read in (load_model, *((load_tokenizer, num_parameters) if "model-" not in file else ())):
        with pytest.raises(ModelError, match=said):
            read(out)
    (source / file).symlink_to("gone")
    for read in (
        lambda: fetch_model(tmp_path / "again", path=source),
        lambda: convert_checkpoint(source, tmp_path / "converted"),
        lambda: write_tokenizer(source, tmp_path / "pieces"),
    ):
        with pytest.raises(ModelError, match=f"source/{file}: a link to gone, where no file is"):
            read()


def index(folder, files):
    (folder / "model.safetensors").unlink()
    write_json(folder / "model.safetensors.index.json", {"weight_map": files})


def test_a_configuration_that_makes_no_model_is_refused(tmp_path):
    for number, change in enumerate(({"pad_token_id": 64}, {"num_hidden_layers": "two"}, {"model_type": "nothing"})):
        source = write_folder(tmp_path / f"{number}", llama())
        write_json(source / "config.json", json.loads((source / "config.json").read_text()) | change)
        with pytest.raises(ModelError, match="makes no causal language model"):
            fetch_model(tmp_path / "out", path=source)


@pytest.mark.parametrize(
    ("pieces", "added", "special", "named"),
    [
        (64, (), {"pad_token": "[PAD]"}, r"1 ids .*\('\[PAD\]' = 64\)"),
        (64, ("<user>", "<bot>"), {}, "'<user>' = 64, '<bot>' = 65"),
        (69, (), {}, "5 ids .*'p62' = 64, 'p63' = 65, 'p64' = 66, ..."),
        (64, (), {}, None),
        (30, ("<user>",), {"pad_token": "[PAD]"}, None),
    ],
)
def test_ids_without_embeddings_are_refused(tmp_path, caplog, pieces, added, special, named):
    source = write_folder(tokenizer_of(tmp_path / "source", pieces, added, **special), llama())
    if named is None:
        assert load_tokenizer(source).pad_token_id < 64
        return
    for folder in (source, tmp_path / "out"):
        if folder != source:
            fetch_model(folder, path=source)
        with pytest.raises(ModelError, match=f"{named}.*: the model has 64 rows, 0 to 63"):
            load_tokenizer(folder)
    assert "no cell can use this model as it is" in caplog.text


def no_eos(folder):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    write_json(folder / "tokenizer_config.json", {key: value for key, value in settings.items() if key != "eos_token"})


@pytest.mark.parametrize(
    ("break_it", "family", "message"),
    [
        (lambda folder: None, "retro", "{0}: a model of type llama without .*, not retro: correct models.mine.family"),
        (lambda folder: tiny_model("retro").save_pretrained(folder), "gpt", "{0}: a model of type retro .* not gpt"),
        (no_eos, "gpt", "tokenizer '{0}' has no eos token"),
        (lambda folder: [file.unlink() for file in folder.glob("tokenizer*")], "gpt", "{0}: no tokenizer there"),
        (lambda folder: tokenizer_of(folder, 70), "gpt", "{0}: 6 ids of the tokenizer have no embedding"),
        (lambda folder: write_json(folder / "adapter_config.json", {}), "gpt", "{0}: holds an adapter"),
    ],
)
@pytest.mark.parametrize("key", ["path", "hub"])
def test_what_no_cell_could_use_is_refused_where_a_study_fetches_it(
    tmp_path, monkeypatch, break_it, family, message, key
):
    """With the study's entry and the user's folder or hub name in the message, and no manifest."""
    source, out = write_folder(tokenizer_of(tmp_path / "source", 40), llama()), tmp_path / "resources/models/mine"
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda hub, local_dir, **more: shutil.copytree(source, local_dir, dirs_exist_ok=True),
    )
    named = str(source) if key == "path" else "who/what"
    fetch_base_model(FetchParams(**{key: named}), out, "mine", "gpt", 64)
    shutil.rmtree(out)
    break_it(source)
    with pytest.raises(ModelError, match=f"models.mine.{key}: .*{message.format(named)}") as error:
        fetch_base_model(FetchParams(**{key: named}), out, "mine", family, 64)
    assert str(out) not in str(error.value)
    assert not (out / "manifest.json").exists()


def roberta():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    return RobertaForCausalLM(
        RobertaConfig(max_position_embeddings=16, is_decoder=True, **sizes, **{**IDS, "pad_token_id": 2})
    )


def bloom():
    return BloomForCausalLM(BloomConfig(hidden_size=16, n_layer=1, n_head=2, **IDS))


@pytest.mark.parametrize(
    ("make", "window"), [(gpt2, 16), (opt, 16), (neox, 16), (roberta, 13), (llama, 64), (bloom, None)]
)
def test_a_study_fetches_no_model_with_a_shorter_window(tmp_path, make, window):
    source, out = write_folder(tokenizer_of(tmp_path / "source", 40), make()), tmp_path / "out"
    params = FetchParams(path=str(source))
    fetch_base_model(params, out, "mine", "gpt", window or 5000)
    model = load_model(out)
    model(input_ids=torch.full((1, window or 100), 5))
    if make in (gpt2, opt, roberta):
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, window + 1), 5))
    if window is not None:
        with pytest.raises(ModelError, match=rf"models.mine.path: {source} takes {window} tokens at most, but max_l"):
            fetch_base_model(params, out, "mine", "gpt", window + 1)


def test_what_was_fetched_is_named_with_its_entry_and_source(tmp_path):
    """Also where it breaks later, in a cell."""
    source, out = write_folder(tokenizer_of(tmp_path / "source", 40), llama()), tmp_path / "resources/models/mine"
    fetch_base_model(FetchParams(path=str(source)), out, "mine", "gpt", 64)
    tensors = load_file(source / "model.safetensors")
    write_folder(source, llama(), dict(list(tensors.items())[1:]))
    with pytest.raises(
        ModelError, match=rf"mine \(models.mine, path {source}\): weights do not fit config.json: 1 miss"
    ):
        load_model(out)


def test_a_folder_without_tokenizer_files_has_no_tokenizer(tmp_path):
    write_folder(tmp_path, gpt2())
    assert len(AutoTokenizer.from_pretrained(tmp_path).get_vocab()) < 2, "what transformers makes of nothing"
    with pytest.raises(ModelError, match="no pieces beside special tokens"):
        load_tokenizer(tmp_path)


CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path({mark!r}).touch()
class OwnConfig(LlamaConfig):
    model_type = "own-llama"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""
AUTO_MAP = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """(folder whose model has code of its own, file that is there once it has run), with `y` on standard input."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    mark = tmp_path / "ran"
    source = write_folder(tokenizer_of(tmp_path / "source", 40), llama())
    (source / "modeling_own.py").write_text(CODE.format(mark=str(mark)))
    config = json.loads((source / "config.json").read_text())
    write_json(source / "config.json", config | {"model_type": "own-llama", "auto_map": AUTO_MAP})
    return source, mark


def test_code_of_a_model_runs_only_where_the_entry_says_so(tmp_path, own):
    source, mark = own
    out = tmp_path / "out"
    for work in (lambda: fetch_model(out, path=source), lambda: load_model(source), lambda: load_tokenizer(source)):
        with pytest.raises(
            ModelError, match=r"config.json: names code of its own \(auto_map\).*trust_remote_code: true"
        ):
            work()
    assert not mark.exists()
    fetch_model(out, path=source, trust_remote_code=True)
    assert mark.exists()
    assert (out / "modeling_own.py").is_file()
    with pytest.raises(ModelError, match="names code of its own"):
        load_model(out)
    assert type(load_model(out, trust_remote_code=True)).__name__ == "OwnModel"
    assert len(load_tokenizer(out, trust_remote_code=True)) == 40
    assert model_facts(out)["trust_remote_code"] is True
    assert model_facts(out)["num_parameters"] == llama().num_parameters()


def test_code_of_a_tokenizer_is_refused_and_unused_code_is_not_fetched(tmp_path, own):
    source, mark = own
    config = json.loads((source / "config.json").read_text())
    del config["auto_map"]
    write_json(source / "config.json", config | {"model_type": "llama"})
    fetch_model(tmp_path / "out", path=source)
    assert not (tmp_path / "out/modeling_own.py").exists()
    assert "trust_remote_code" not in model_facts(tmp_path / "out")
    settings = source / "tokenizer_config.json"
    write_json(settings, json.loads(settings.read_text()) | {"auto_map": {"AutoTokenizer": [None, "modeling_own.T"]}})
    with pytest.raises(ModelError, match="tokenizer_config.json: names code of its own"):
        fetch_model(tmp_path / "out", path=source)
    assert not mark.exists()


def test_trust_is_said_in_an_entry_of_hub_or_path():
    entry = ModelEntry(family="gpt", size="xs", path="x")
    assert "trust_remote_code" not in entry.given(), "cells made before the key do not run again"
    trusted = ModelEntry(family="gpt", size="xs", hub="a/b", trust_remote_code=True)
    assert ModelEntry.model_validate_json(trusted.model_dump_json()).trust_remote_code
    with pytest.raises(ValidationError, match="trust_remote_code: true needs hub or path"):
        ModelEntry(family="gpt", size="xs", pretraining="p", trust_remote_code=True)
