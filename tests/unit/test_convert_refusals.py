"""What must not be converted is refused by name, before any tensor is read or anything is written."""

import os
import pickle
import shutil

import pytest
import torch
from convert_cases import (
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
from safetensors.torch import save_file

from retrotune.errors import ModelError
from retrotune.models import convert
from retrotune.models.convert import convert_checkpoint, stored
from retrotune.models.loading import load_model
from retrotune.runtime.files import write_json

OPTIONS = {"vocab_size": VOCABULARY}


@pytest.fixture
def gpt():
    return tiny_model("gpt", num_hidden_layers=2)


def fails(folder, out=None, **options):
    """The message with which a conversion fails; it leaves nothing behind."""
    out = out or folder.parent / "out"
    with pytest.raises(ModelError) as error:
        convert_checkpoint(folder, out, **(OPTIONS | options))
    assert not out.exists()
    return str(error.value)


def no_reading(monkeypatch):
    """Any tensor that is read fails the test."""
    monkeypatch.setattr(stored.Block, "read_into", lambda self, target: pytest.fail("a tensor was read"))


class Attack:
    """Runs a command where it is unpickled without restraint."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def test_the_attack_would_work(tmp_path):
    pickle.loads(pickle.dumps(Attack(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("place", ["shard", "common.pt", ".metadata"])
def test_untrusted_pickles_are_not_executed(tmp_path, gpt, place):
    attack = Attack(tmp_path / "ran")
    if place == "shard":
        path = shard_path(save_legacy(tmp_path / "in", gpt, more={"note": attack}), 0)
    else:
        folder = save_distributed(tmp_path / "in", core_tensors(gpt), arguments(gpt))
        path = folder / place
        save = torch.save if place == "common.pt" else lambda value, path: path.write_bytes(pickle.dumps(value))
        save({"note": attack, "args": arguments(gpt)}, path)
    message = fails(tmp_path / "in")
    assert f"{path}: names posix.system, which no weights need: refused, nothing was executed" in message
    assert not (tmp_path / "ran").exists()


class Unknown:
    pass


def test_unknown_classes_are_named(tmp_path, gpt):
    save_legacy(tmp_path / "in", gpt, note=Unknown())
    assert f"names {__name__}.Unknown, which no weights need" in fails(tmp_path / "in")


def test_missing_unexpected_and_misshapen_tensors_are_all_named(tmp_path, gpt, monkeypatch):
    tensors = legacy_tensors(gpt)
    del tensors["encoder.layers.0.input_norm.weight"], tensors["encoder.final_norm.bias"]
    tensors["encoder.layers.1.mlp.dense_h_to_4h.bias"] = torch.zeros(96)
    tensors["encoder.layers.7.input_norm.bias"] = torch.zeros(32)
    for name, rows in (("mlp.dense_h_to_4h", 94), ("self_attention.query_key_value", 98)):
        tensors[f"encoder.layers.1.{name}.weight"] = torch.zeros(rows, 32)
    tensors["encoder.layers.1.self_attention.dense.weight"] = torch.zeros(32, 16)
    no_reading(monkeypatch)
    message = fails(save_legacy(tmp_path / "in", gpt, tensors=tensors))
    assert "2 missing: model.layers.0.input_norm.weight, model.norm.bias" in message
    assert "3 unexpected: model.layers.1.mlp.gate_proj.bias (48,), model.layers.1.mlp.up_proj.bias (48,)," in message
    assert "model.layers.7.input_norm.bias (32,)" in message
    assert "3 of another shape: model.layers.1.mlp.up_proj.weight (46, 32), not (48, 32)" in message
    assert "model.layers.1.self_attention.o_proj.weight (32, 16), not (32, 32)" in message
    assert "model.layers.1.self_attention.v_proj.weight (34, 32), not (32, 32)" in message


def test_a_retro_without_its_encoder_or_with_another_owner(tmp_path):
    model = tiny_model("retro")
    tensors = legacy_tensors(model)
    moved = {name.replace("layers.5.retriever", "layers.4.retriever"): tensor for name, tensor in tensors.items()}
    partial = {name: tensor for name, tensor in tensors.items() if "retriever" not in name}
    for number, (found, unexpected) in enumerate(((partial, False), (moved, True))):
        message = fails(save_legacy(tmp_path / str(number), model, tensors=found), chunk_length=4)
        assert "28 missing: model.neighbor_encoder.layers.0.cross_attention.k_proj.weight" in message
        assert ("encoder.layers.4.retriever.layers.0" in message) is unexpected


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 0.999])
def test_truncated_shards(tmp_path, gpt, share):
    path = shard_path(save_legacy(tmp_path / "in", gpt, 2), 1)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    message = fails(tmp_path / "in")
    assert str(path) in message
    assert "truncated" in message


def test_shards_of_different_checkpoints(tmp_path, gpt, monkeypatch):
    folder = save_legacy(tmp_path / "in", gpt, 2)
    other = tiny_model("gpt", num_hidden_layers=2)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    args = arguments(other, tensor_model_parallel_size=2)
    part = nested(rank_tensors(legacy_tensors(other), 1, 2))
    save_shard(folder, 1, part, args)
    assert "where every rank has the same: shards of different checkpoints are mixed" in fails(folder)
    no_reading(monkeypatch)
    save_shard(folder, 1, part, arguments(other, tensor_model_parallel_size=4))
    assert "tensor_model_parallel_size is 2 in mp_rank_00 and 4 in mp_rank_01" in fails(folder)
    torch.save({"args": args, "model": part, "iteration": 2, "checkpoint_version": 3.0}, shard_path(folder, 1))
    assert "iteration is 1 in mp_rank_00 and 2 in mp_rank_01" in fails(folder)
    save_shard(folder, 1, nested(rank_tensors(legacy_tensors(other), 1, 4)), args)
    assert "embedding.word_embeddings.weight differs between ranks" in fails(folder)


def test_missing_ranks_and_files(tmp_path, gpt):
    folder = save_legacy(tmp_path / "in", gpt, 4)
    shard_path(folder, 3).unlink()
    assert f"{shard_path(folder, 3)}: no such file" in fails(folder)
    shutil.rmtree(shard_path(folder, 3).parent)
    shutil.rmtree(shard_path(folder, 1).parent)
    assert "tensor-parallel size 4 in mp_rank_00, but missing mp_rank_01, mp_rank_03, too many none" in fails(folder)
    (folder / "latest_checkpointed_iteration.txt").write_text("7")
    assert "says '7', but there is no folder" in fails(folder)
    (folder / "latest_checkpointed_iteration.txt").unlink()
    (folder / "iter_0000009").mkdir()
    assert "2 iterations and no latest_checkpointed_iteration.txt" in fails(folder)


def test_pipeline_parallel_shards(tmp_path, gpt):
    folder = save_legacy(tmp_path / "in", gpt)
    shard_path(folder, 0).parent.rename(folder / "iter_0000001/mp_rank_00_000")
    assert "mp_rank_00_000: pipeline-parallel shards are not merged" in fails(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"squared_relu": True, "swiglu": False}, "swiglu=False, squared_relu=True"),
        ({"add_bias_linear": True}, "add_bias_linear=True"),
        ({"apply_residual_connection_post_layernorm": True}, "apply_residual_connection_post_layernorm=True"),
        ({"position_embedding_type": "learned_absolute", "use_rotary_position_embeddings": False}, "learned_absolute"),
        ({"num_experts": 8}, "num_experts=8"),
        ({"normalization": "BatchNorm"}, "normalization=BatchNorm: known are LayerNorm, RMSNorm"),
        ({"ffn_hidden_size": None}, "its arguments hold no ffn_hidden_size"),
        ({"num_query_groups": 3, "group_query_attention": True}, "its arguments contradict each other"),
        ({"retro_add_retriever": True}, "2 layers: RETRO needs 6 or more"),
    ],
)
def test_other_architectures(tmp_path, gpt, changes, message):
    assert message in fails(save_legacy(tmp_path / "in", gpt, **changes), chunk_length=4)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("language_model.pooler.dense.weight", "a BERT checkpoint (pooler.dense.weight)"),
        ("lm_head.bias", "a BERT checkpoint (lm_head.bias)"),
        ("language_model.decoder.layers.0.input_norm.weight", "a T5 checkpoint (encoder.layers.0."),
        ("language_model.embedding.position_embeddings.weight", "embedding.position_embeddings.weight: our model has"),
        ("language_model.encoder.layers.0.mlp.router.weight", "a mixture of experts checkpoint"),
    ],
)
def test_other_model_families(tmp_path, gpt, name, family):
    state = nested(legacy_tensors(gpt))
    *parents, leaf = name.split(".")
    node = state
    for parent in parents:
        node = node.setdefault(parent, {})
    node[leaf] = torch.zeros(3)
    save_shard(tmp_path / "in", 0, state, arguments(gpt))
    assert family in fails(tmp_path / "in")


def test_what_the_checkpoint_does_not_say(tmp_path):
    model = tiny_model("retro")
    folder = save_legacy(tmp_path / "in", model)
    assert "give --chunk-length N (NVIDIA: 64)" in fails(folder)
    message = fails(folder, vocab_size=None, chunk_length=4)
    assert "64 embedding rows are padded and it does not say by how many" in message
    assert "--vocab-size N" in message
    assert "a vocabulary of 65, but there are 64 embedding rows" in fails(folder, vocab_size=65, chunk_length=4)
    save_legacy(folder, model, retro_chunk_length=8)
    assert "--chunk-length 4, but the checkpoint was trained with chunks of 8" in fails(folder, chunk_length=4)
    assert "a retro checkpoint, where a gpt model is asked for" in fails(folder, family="gpt")


def test_checkpoints_before_rows_were_grouped_by_head(tmp_path, gpt):
    folder = save_legacy(tmp_path / "in", gpt)
    torch.save({"args": arguments(gpt), "model": nested(legacy_tensors(gpt)), "iteration": 1}, shard_path(folder, 0))
    assert "checkpoint_version 0: its attention rows have an older order" in fails(folder)


def test_damaged_distributed_checkpoints(tmp_path, gpt, monkeypatch):
    def saved(name, tensors=None):
        return save_distributed(tmp_path / name, tensors or core_tensors(gpt), arguments(gpt), 2)

    no_reading(monkeypatch)
    for name in (".metadata", "common.pt"):
        (saved("a") / name).unlink()
        assert f"{name}: no such file" in fails(tmp_path / "a")
        (tmp_path / "a" / name).write_bytes(b"\x80\x04damaged")
        assert f"{name}: truncated" in fails(tmp_path / "a")
    (saved("b") / "__0_0.distcp").unlink()
    assert "should be in it; copy the whole folder" in fails(tmp_path / "b")
    data = (saved("b") / "__0_0.distcp").read_bytes()
    (tmp_path / "b/__0_0.distcp").write_bytes(data[:-500])
    assert "__0_0.distcp: truncated: decoder.final_layernorm.bias ends at byte" in fails(tmp_path / "b")
    description = pickle.loads((saved("c") / ".metadata").read_bytes())
    description.state_dict_metadata["output_layer.weight"].chunks.pop()
    (tmp_path / "c/.metadata").write_bytes(pickle.dumps(description))
    assert "output_layer.weight (64, 32): the parts that are there do not make the whole" in fails(tmp_path / "c")
    for change, message in ({"relative_path": 3}, "damaged"), ({"relative_path": "../b/__0_0.distcp"}, "no such file"):
        description = pickle.loads((saved("c") / ".metadata").read_bytes())
        vars(next(iter(description.storage_data.values()))).update(change)
        (tmp_path / "c/.metadata").write_bytes(pickle.dumps(description))
        assert message in fails(tmp_path / "c")
    tensors = core_tensors(gpt)
    del tensors["decoder.layers.0.mlp.linear_fc2.weight"]
    saved("d", tensors)
    assert "1 missing: model.layers.0.mlp.down_proj.weight" in fails(tmp_path / "d")


def test_a_part_that_is_not_what_the_description_says(tmp_path, gpt):
    folder = save_distributed(tmp_path / "in", core_tensors(gpt), arguments(gpt))
    data = (folder / "__0_0.distcp").read_bytes()
    (folder / "__0_0.distcp").write_bytes(data.replace(b"data/0", b"data/9"))
    with pytest.raises(ModelError, match=r"__0_0\.distcp: truncated"):
        convert_checkpoint(folder, tmp_path / "out", **OPTIONS)
    assert not (tmp_path / "out/manifest.json").exists()


def test_folders_that_hold_nothing_known(tmp_path):
    for name, message in (("nowhere", "no such file or folder; looked for"), ("in", "no checkpoint of a known layout")):
        message_found = fails(tmp_path / name)
        assert message in message_found
        assert "mp_rank_*/model_optim_rng.pt" in message_found
        assert ".gguf" in message_found
        (tmp_path / "in").mkdir(exist_ok=True)
    save_file({"a": torch.zeros(2)}, tmp_path / "in/model.safetensors")
    write_json(tmp_path / "in/config.json", {"layers": 3})
    assert "no checkpoint of a known layout" in fails(tmp_path / "in")
    write_json(tmp_path / "in/config.json", {"num_layers": 3})
    assert "no embedding.word_embeddings.weight among its tensors (a, ...)" in fails(tmp_path / "in")


def test_nothing_of_the_users_is_overwritten(tmp_path, gpt):
    source = save_legacy(tmp_path / "in", gpt)
    for out in (source, tmp_path):
        with pytest.raises(ModelError, match="the checkpoint lies there"):
            convert_checkpoint(source, out, **OPTIONS)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with pytest.raises(ModelError, match="not empty, and not made by a conversion"):
        convert_checkpoint(source, tmp_path / "mine", **OPTIONS)
    assert (tmp_path / "mine/notes.txt").exists()
    convert_checkpoint(source, tmp_path / "mine", replace=True, **OPTIONS)
    assert not (tmp_path / "mine/notes.txt").exists()


def test_an_interrupted_conversion_does_not_look_finished(tmp_path, gpt, monkeypatch):
    source, out = save_legacy(tmp_path / "in", gpt), tmp_path / "out"
    convert_checkpoint(source, out, **OPTIONS)
    read = stored.Block.read_into
    left = iter(range(5))

    def interrupted(self, target):
        if next(left, None) is None:
            raise KeyboardInterrupt
        read(self, target)

    monkeypatch.setattr(stored.Block, "read_into", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(source, out, **OPTIONS)
    assert not (out / "manifest.json").exists()
    with pytest.raises(ModelError, match="no model there"):
        load_model(out)
    monkeypatch.undo()
    convert_checkpoint(source, out, **OPTIONS)
    load_model(out)


def test_a_tokenizer_of_another_model(tmp_path, gpt, monkeypatch):
    monkeypatch.setattr(convert, "_write_tokenizer", lambda tokenizer, out: {"vocab_size": 61})
    folder = save_legacy(tmp_path / "in", gpt)
    assert "61 pieces, but the model has 60 embeddings" in fails(folder, tokenizer=tmp_path / "other.model")


@pytest.mark.parametrize("content", [b"../elsewhere", b"\xff\xfe", b"", "²".encode()])
def test_the_last_iteration_is_a_folder_beside_its_file(tmp_path, gpt, content):
    save_legacy(tmp_path / "in", gpt)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "in" / convert.LATEST).write_bytes(content)
    assert f"{tmp_path / 'in' / convert.LATEST}: says " in fails(tmp_path / "in")


@pytest.mark.parametrize("option", ["chunk_length", "vocab_size"])
@pytest.mark.parametrize("number", [0, -3])
def test_numbers_below_one(tmp_path, gpt, option, number):
    save_legacy(tmp_path / "in", gpt)
    said = f"--{option.replace('_', '-')} {number}: must be at least 1"
    assert said in fails(tmp_path / "in", **{option: number})


def test_a_rank_copied_over_another(tmp_path, gpt):
    save_legacy(tmp_path / "in", gpt, size=2)
    shutil.copy(shard_path(tmp_path / "in", 0), shard_path(tmp_path / "in", 1))
    assert "mp_rank_00 and mp_rank_01 hold the same shard" in fails(tmp_path / "in")
