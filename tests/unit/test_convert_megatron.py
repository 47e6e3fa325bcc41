"""Megatron checkpoints of every layout become the model that they were made of, bit for bit."""

import functools
import io
import json
import re
import shutil
import signal
import zipfile

import numpy as np
import pytest
import torch
from convert_cases import (
    PADDED,
    VOCABULARY,
    arguments,
    core_tensors,
    legacy_tensors,
    nested,
    rank_tensors,
    save_distributed,
    save_legacy,
    save_shard,
    shard_path,
    tiny_model,
)
from safetensors.torch import load_file, save_file

from retrotune.cli import main
from retrotune.errors import ModelError
from retrotune.models import convert
from retrotune.models.convert import convert_checkpoint, convert_model, writing
from retrotune.models.loading import load_model
from retrotune.runtime.files import sha256, write_json
from retrotune.study.stages import ConvertParams

RETRO = {"chunk_length": 4, "vocab_size": VOCABULARY}
GPT = {"vocab_size": VOCABULARY}


def assert_same(model, folder, dtype=None):
    """The folder holds `model`: all weights, bit for bit, and what the configuration says of the architecture."""
    found = load_model(folder, dtype=dtype or model.dtype)
    wanted = dict(model.state_dict())
    assert found.state_dict().keys() == wanted.keys()
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name
    for key in ("cross_attention_layers", "num_key_value_heads", "rotary_share", "norm", "tie_word_embeddings"):
        assert getattr(found.config, key) == getattr(model.config, key), key
    return found


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_legacy_shards_of_any_tensor_parallel_size(tmp_path, size, dtype):
    model = tiny_model("retro", dtype)
    convert_checkpoint(save_legacy(tmp_path / "in", model, size), tmp_path / "out", **RETRO)
    config = assert_same(model, tmp_path / "out").config
    assert (config.encoder_residual, config.short_chunk, config.final_norm) == ("pre_norm", "last", True)
    assert (config.chunk_length, config.retrieved_length, config.dtype) == (4, 8, dtype)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_key_value_heads": 2},
        {"num_key_value_heads": 2, "attention_bias": True},
        {"tie_word_embeddings": True},
        {"norm": "rmsnorm", "rotary_share": 1.0},
        {"num_hidden_layers": 2},
        {"head_dim": 16},
    ],
)
def test_a_plain_gpt_in_legacy_shards(tmp_path, changes):
    model = tiny_model("gpt", **changes)
    convert_checkpoint(save_legacy(tmp_path / "in", model, 2), tmp_path / "out", **GPT)
    assert_same(model, tmp_path / "out")


@pytest.mark.parametrize("norm", ["layernorm1p", "rmsnorm"])
@pytest.mark.parametrize("less_one", [True, False])
def test_gammas_are_kept_whichever_way_they_are_stored(tmp_path, norm, less_one):
    model = tiny_model("gpt", norm=norm, num_hidden_layers=2)
    stored_here = int(norm == "layernorm1p")
    effective = stored_here - int(less_one)
    save_legacy(tmp_path / "in", model, tensors=legacy_tensors(model, effective), apply_layernorm_1p=less_one)
    convert_checkpoint(tmp_path / "in", tmp_path / "out", **GPT)
    found, wanted = (m.state_dict() for m in (load_model(tmp_path / "out"), model))
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], atol=1e-7 if "norm" in name else 0, rtol=0)


def test_gammas_stored_whole_in_bfloat16_stay_exact(tmp_path):
    model = tiny_model("gpt", torch.bfloat16, num_hidden_layers=2)
    tensors = core_tensors(model)
    gamma = torch.linspace(0.01, 3, 32).bfloat16()
    tensors["decoder.final_layernorm.weight"] = gamma
    save_distributed(tmp_path / "in", tensors, arguments(model, apply_layernorm_1p=False))
    convert_checkpoint(tmp_path / "in", tmp_path / "out", **GPT)
    found = load_file(tmp_path / "out/model.safetensors")
    assert torch.equal(found["model.norm.weight"] + 1, gamma.float())
    assert found["lm_head.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("final_norm", [True, False])
def test_distributed_checkpoints(tmp_path, size, final_norm):
    model = tiny_model("retro", final_norm=final_norm)
    args = arguments(model, apply_layernorm_1p=True, retro_chunk_length=4, vocab_size=VOCABULARY)
    save_distributed(tmp_path / "in/iter_0000001", core_tensors(model), args, size)
    convert_checkpoint(tmp_path / "in", tmp_path / "out")
    config = assert_same(model, tmp_path / "out").config
    assert (config.encoder_residual, config.final_norm, config.chunk_length) == ("normed", final_norm, 4)


@pytest.mark.parametrize("size", [1, 3])
def test_a_plain_gpt_stacks_its_layers_in_distributed_checkpoints(tmp_path, size):
    model = tiny_model("gpt", num_key_value_heads=2)
    stacked = {}
    for name, tensor in core_tensors(model).items():
        key = re.sub(r"layers\.\d+\.", "layers.", name).replace("pre_mlp_layernorm.", "mlp.linear_fc1.layer_norm_")
        stacked.setdefault(key.replace("input_layernorm.", "self_attention.linear_qkv.layer_norm_"), []).append(tensor)
    tensors = {name: torch.stack(parts) if ".layers." in name else parts[0] for name, parts in stacked.items()}
    save_distributed(tmp_path / "in", tensors, arguments(model), size)
    convert_checkpoint(tmp_path / "in", tmp_path / "out", **GPT)
    assert_same(model, tmp_path / "out")


def test_a_distributed_checkpoint_with_an_optimizer(tmp_path):
    model = tiny_model("gpt", num_hidden_layers=2)
    tensors = core_tensors(model)
    tensors["optimizer.state.exp_avg.decoder.final_layernorm.weight"] = torch.ones(3)
    tensors["decoder.layers.0.mlp.linear_fc1._extra_state"] = torch.ones(3)
    save_distributed(tmp_path / "in", tensors, arguments(model))
    convert_checkpoint(tmp_path / "in", tmp_path / "out", **GPT)
    assert_same(model, tmp_path / "out")


def test_a_state_dict_with_megatron_cores_configuration(tmp_path):
    model = tiny_model("retro")
    tensors = {name: tensor.clone() for name, tensor in core_tensors(model).items()}
    (tmp_path / "in").mkdir()
    first = dict(list(tensors.items())[:9])
    save_file(first, tmp_path / "in/model-1.safetensors")
    save_file({key: value for key, value in tensors.items() if key not in first}, tmp_path / "in/model-2.safetensors")
    config = {
        "num_layers": 6, "hidden_size": 32, "ffn_hidden_size": 48, "num_attention_heads": 4, "kv_channels": 8,
        "layernorm_epsilon": 1e-5, "layernorm_zero_centered_gamma": True, "add_bias_linear": False,
        "gated_linear_unit": True, "activation_func": "silu", "max_sequence_length": 64, "rotary_percent": 0.5,
        "position_embedding_type": "rope", "share_embeddings_and_output_weights": False,
        "vocab_size": VOCABULARY, "retro_chunk_length": 4, "retro_encoder_num_layers": 2,
    }  # fmt: skip
    write_json(tmp_path / "in/config.json", config)
    convert_checkpoint(tmp_path / "in", tmp_path / "out")
    assert assert_same(model, tmp_path / "out").config.encoder_residual == "normed"
    save_file(tensors, tmp_path / "in/model.safetensors")
    with pytest.raises(ModelError, match="lies in another file of the folder too: leave one copy"):
        convert_checkpoint(tmp_path / "in", tmp_path / "out")


def test_megatron_core_names_in_legacy_shards(tmp_path):
    model = tiny_model("retro")
    for rank in range(2):
        args = arguments(model, tensor_model_parallel_size=2)
        save_shard(tmp_path / "in", rank, rank_tensors(core_tensors(model), rank, 2), args)
    convert_checkpoint(tmp_path / "in/iter_0000001", tmp_path / "out", **RETRO)
    assert assert_same(model, tmp_path / "out").config.encoder_residual == "normed"


class ModelType:
    """Pickled under the name of Megatron's enum."""

    def __reduce__(self):
        return (ModelType, (1,))


def test_what_megatron_leaves_in_its_checkpoints_does_not_hinder(tmp_path, monkeypatch):
    model = tiny_model("gpt", num_hidden_layers=2)
    monkeypatch.setattr(ModelType, "__module__", "megatron.core.enums")
    module = type(signal)("megatron.core.enums")
    module.ModelType = ModelType
    for name in ("megatron", "megatron.core", "megatron.core.enums"):
        monkeypatch.setitem(__import__("sys").modules, name, module)
    random = {"rng_state": [{"np_rng_state": np.random.get_state(), "random_rng_state": (3, (1, 2), None)}]}
    more = random | {"io": io.BytesIO(b"fp8"), "optimizer": {"state": torch.ones(5), "step": np.float64(3.0)}, "num": 0}
    save_legacy(tmp_path / "in", model, more=more, model_type=ModelType(), exit_signal=signal.SIGTERM)
    monkeypatch.undo()
    convert_checkpoint(tmp_path / "in", tmp_path / "out", **GPT)
    assert_same(model, tmp_path / "out")


def test_tensors_saved_on_a_gpu(tmp_path, monkeypatch):
    model = tiny_model("gpt", num_hidden_layers=2)
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    path = shard_path(save_legacy(tmp_path / "in", model), 0)
    monkeypatch.undo()
    with zipfile.ZipFile(path) as archive:
        assert b"cuda:0" in archive.read("model_optim_rng/data.pkl")
    convert_checkpoint(tmp_path / "in", tmp_path / "out", **GPT)
    assert_same(model, tmp_path / "out")


def repacked(path, left_out=()):
    """Pack a file of torch.save anew, without torch's alignment."""
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in records.items():
            if not name.endswith(left_out):
                archive.writestr(name, data)


def test_tensors_are_where_torch_looks_them_up_or_the_file_is_refused(tmp_path):
    model = tiny_model("gpt", num_hidden_layers=2)
    path = shard_path(save_legacy(tmp_path / "in", model), 0)
    repacked(path)
    with pytest.raises(ModelError, match="not where torch would have put it; was the file packed anew"):
        convert_checkpoint(tmp_path / "in", tmp_path / "out", **GPT)
    save_legacy(tmp_path / "in", model)
    repacked(path, (".format_version", ".storage_alignment"))  # as before torch 2.7
    convert_checkpoint(tmp_path / "in", tmp_path / "out", **GPT)
    assert_same(model, tmp_path / "out")


def test_parameters_that_are_views_of_one_buffer(tmp_path):
    model = tiny_model("gpt", num_hidden_layers=2)
    tensors = legacy_tensors(model)
    buffer = torch.cat([tensor.flatten() for tensor in tensors.values()])
    sizes = [tensor.numel() for tensor in tensors.values()]
    views = {
        name: torch.nn.Parameter(part.view_as(tensors[name]))
        for name, part in zip(tensors, buffer.split(sizes), strict=True)
    }
    save_shard(tmp_path / "in", 0, nested(views), arguments(model))
    convert_checkpoint(tmp_path / "in", tmp_path / "out", **GPT)
    assert_same(model, tmp_path / "out")


def test_large_models_are_written_in_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "SHARD_BYTES", 20_000)
    model = tiny_model("retro")
    convert_checkpoint(save_legacy(tmp_path / "in", model, 2), tmp_path / "out", **RETRO)
    assert_same(model, tmp_path / "out")
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert len(files) > 5
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(files)
    assert index["metadata"]["total_size"] == sum(p.numel() for p in model.parameters()) * 4


def test_the_manifest_says_where_the_model_came_from(tmp_path):
    model = tiny_model("retro")
    source = save_legacy(tmp_path / "in", model, 2)
    convert_checkpoint(source, tmp_path / "out", **RETRO)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["source"] == {
        "checkpoint": str(source),
        "layout": "megatron-legacy",
        "path": str(source / "iter_0000001"),
        "iteration": 1,
        "dropped_vocabulary_rows": PADDED - VOCABULARY,
    }
    assert manifest["num_parameters"] == model.num_parameters()
    assert manifest["departures"] == ["chunks of 4 tokens, neighbors of 8 (64 and 128)"]
    assert manifest["weights_sha256"] == {"model.safetensors": sha256(tmp_path / "out/model.safetensors")}


def tokenizer_written(tokenizer, out, eos_token_id=2):
    shutil.copy(tokenizer, out / "tokenizer.model")
    return {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": eos_token_id, "pad_token_id": None}


def test_a_tokenizer_beside_the_checkpoint_tells_the_vocabulary(tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "_write_tokenizer", tokenizer_written)
    model = tiny_model("gpt")
    save_legacy(tmp_path / "in", model)
    (tmp_path / "in/nvidia.model").write_text("pieces")
    convert_checkpoint(tmp_path / "in", tmp_path / "out")
    config = assert_same(model, tmp_path / "out").config
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, None)
    assert (tmp_path / "out/tokenizer.model").read_text() == "pieces"


def test_a_study_converts_its_checkpoint(tmp_path, monkeypatch):
    """What lay in the model's folder goes; the manifest records what the stage used."""
    monkeypatch.setattr(convert, "_write_tokenizer", tokenizer_written)
    model, out = tiny_model("retro"), tmp_path / "out"
    source = save_legacy(tmp_path / "in", model)
    (tmp_path / "in/nvidia.model").write_text("pieces")
    out.mkdir()
    (out / "older.txt").write_text("of another model")
    params = ConvertParams(family="retro", path=str(source), **RETRO)
    convert_model(params, out, tmp_path / "packages", "mine", 64)
    assert_same(model, out)
    assert not (out / "older.txt").exists()
    assert json.loads((out / "manifest.json").read_text())["params"] == params.recorded()

    asked = []
    monkeypatch.setattr(convert, "package_file", lambda *where: asked.append(where) or source)
    packed = params.model_copy(update={"package": "some-model==1.2", "path": "some/model"})
    convert_model(packed, out, tmp_path / "packages", "mine", 64)
    assert asked == [("some-model==1.2", "some/model", tmp_path / "packages")]
    other_family = packed.model_copy(update={"family": "gpt"})
    with pytest.raises(ModelError, match=f"models.mine.checkpoint: {source}: a retro checkpoint, where a gpt"):
        convert_model(other_family, out, tmp_path / "packages", "mine", 64)


def test_a_study_needs_a_tokenizer_that_ends_texts(tmp_path, monkeypatch):
    """Before anything is written: no cell could use the model."""
    out = tmp_path / "out"
    params = ConvertParams(family="retro", path=str(save_legacy(tmp_path / "in", tiny_model("retro"))), **RETRO)
    with pytest.raises(ModelError, match=r"in: no tokenizer there: name a tokenizer in models\.mine\.checkpoint\.tok"):
        convert_model(params, out, tmp_path / "packages", "mine", 64)
    (tmp_path / "in/nvidia.model").write_text("pieces")
    monkeypatch.setattr(convert, "_write_tokenizer", functools.partial(tokenizer_written, eos_token_id=None))
    with pytest.raises(ModelError, match=r"nvidia.model: no token ends a text \(eos_token\)"):
        convert_model(params, out, tmp_path / "packages", "mine", 64)
    assert not out.exists()


def test_the_command(tmp_path, capsys):
    model = tiny_model("retro")
    source = save_legacy(tmp_path / "in", model)
    command = ["convert", str(source), str(tmp_path / "out"), "--vocab-size", str(VOCABULARY)]
    assert main(command) == 1
    assert "give --chunk-length N" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*command, "--chunk-length", "4"]) == 0
    assert main([*command, "--chunk-length", "4"]) == 0, "a conversion may be repeated"
    assert load_file(tmp_path / "out/model.safetensors").keys() == model.state_dict().keys()
