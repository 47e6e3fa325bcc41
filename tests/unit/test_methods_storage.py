"""Saving and loading: trained weights only, bitwise the same, refused for another model, never half written."""

import json
import shutil
import tempfile

import pytest
import torch
from methods_cases import ADAPTER, FAMILIES, FULL, LORA, PTUNING, TRAINED, method_id, perturb, prompts, tiny_model
from safetensors.torch import load_file, save_file

from retrotune.errors import MethodError
from retrotune.methods import attach, fingerprint, load_trained, save_trained
from retrotune.study.config import ZeroshotMethod


def trained(family, method):
    model = attach(tiny_model(family), method).eval()
    perturb(model)
    return model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", TRAINED, ids=method_id)
def test_round_trip_is_bitwise(tmp_path, family, method):
    model, inputs = trained(family, method), prompts(family)
    save_trained(model, tmp_path / "adapter")
    loaded = load_trained(tiny_model(family), tmp_path / "adapter")
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize("method", [LORA, ADAPTER, PTUNING], ids=method_id)
def test_only_trained_weights_are_saved(tmp_path, method):
    model = trained("llama", method)
    save_trained(model, tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    wanted = {n.replace(".default", ""): p for n, p in model.named_parameters() if p.requires_grad}
    assert saved.keys() == wanted.keys()
    assert all(torch.equal(saved[name], wanted[name]) for name in saved)


def test_full_is_a_plain_transformers_folder(tmp_path):
    from transformers import AutoModelForCausalLM

    model = trained("llama", FULL)
    save_trained(model, tmp_path / "adapter")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    assert torch.equal(loaded(**prompts("llama")).logits, model(**prompts("llama")).logits)


def test_saving_replaces_what_was_there(tmp_path):
    save_trained(trained("llama", LORA), tmp_path / "adapter")
    save_trained(trained("llama", ADAPTER), tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "retrotune.json").read_text())["method"] == "adapter"


def test_nothing_half_written(tmp_path, monkeypatch):
    save_trained(trained("llama", LORA), tmp_path / "adapter")
    before = {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()}

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("retrotune.methods.storage.write_json", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_trained(trained("llama", ADAPTER), tmp_path / "adapter")
    assert {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_weights_are_written_beside_their_place(tmp_path, monkeypatch):
    """Another file system could not put them into place at once."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "there is no such folder"))
    save_trained(trained("llama", LORA), tmp_path / "adapter")
    assert load_trained(tiny_model("llama"), tmp_path / "adapter") is not None


def test_zeroshot_has_nothing_to_save(tmp_path):
    with pytest.raises(MethodError, match="nothing to save"):
        save_trained(attach(tiny_model("llama"), ZeroshotMethod(kind="zeroshot")), tmp_path / "adapter")


@pytest.mark.parametrize("method", TRAINED, ids=method_id)
def test_another_shape_is_refused_and_both_are_named(tmp_path, method):
    save_trained(trained("llama", method), tmp_path / "adapter")
    other = tiny_model("llama", head_dim=8)
    other.config.hidden_size = 64
    with pytest.raises(MethodError, match=r"hidden_size 32.*but this one is.*hidden_size 64"):
        load_trained(other, tmp_path / "adapter")


def test_a_whole_model_of_other_depth_or_vocabulary_is_refused(tmp_path):
    """Nothing else would tell: the weights of a whole model are loaded into a model of their own."""
    save_trained(trained("llama", FULL), tmp_path / "adapter")
    shape = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 64}
    assert fingerprint(tiny_model("llama"), weights=False) == shape
    for key, value in (("num_hidden_layers", 3), ("vocab_size", 65), ("model_type", "other")):
        other = tiny_model("llama")
        setattr(other.config, key, value)
        with pytest.raises(MethodError, match=f"{key} {shape[key]}.*but this one is.*{key} {value}"):
            load_trained(other, tmp_path / "adapter")


@pytest.mark.parametrize("method", [LORA, ADAPTER, PTUNING], ids=method_id)
def test_another_model_of_the_same_shape_is_refused(tmp_path, method):
    save_trained(trained("llama", method), tmp_path / "adapter")
    with pytest.raises(MethodError, match="trained for another model: model_type llama"):
        load_trained(tiny_model("llama", seed=1), tmp_path / "adapter")


@pytest.mark.parametrize("method", [LORA, ADAPTER, PTUNING], ids=method_id)
def test_fingerprint_sees_through_methods_and_number_types(method):
    base = fingerprint(tiny_model("llama"))
    assert fingerprint(trained("llama", method)) == base
    assert fingerprint(tiny_model("llama").to(torch.bfloat16)) == base
    assert fingerprint(tiny_model("llama", seed=1)) != base


def test_damage_is_reported(tmp_path):
    with pytest.raises(MethodError, match=r"no trained weights .*run the cell again"):
        load_trained(tiny_model("llama"), tmp_path / "absent")
    save_trained(trained("llama", LORA), tmp_path / "adapter")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    whole = weights.read_bytes()
    for broken in (whole[: len(whole) // 2], b""):
        weights.write_bytes(broken)
        with pytest.raises(MethodError, match=r"cannot be loaded .*run the cell again"):
            load_trained(tiny_model("llama"), tmp_path / "adapter")
    weights.unlink()
    with pytest.raises(MethodError, match="cannot be loaded"):
        load_trained(tiny_model("llama"), tmp_path / "adapter")


def test_missing_tensors_are_reported(tmp_path):
    save_trained(trained("llama", ADAPTER), tmp_path / "adapter")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(weights)
    dropped = tensors.popitem()[0]
    save_file(tensors, weights)
    with pytest.raises(MethodError, match=dropped.replace(".", r"\.")):
        load_trained(tiny_model("llama"), tmp_path / "adapter")


def test_damaged_full_model_is_reported(tmp_path):
    save_trained(trained("llama", FULL), tmp_path / "adapter")
    tensors = load_file(tmp_path / "adapter" / "model.safetensors")
    tensors.pop("model.norm.weight")
    save_file(tensors, tmp_path / "adapter" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MethodError, match=r"lacks 1 weights, first model\.norm\.weight"):
        load_trained(tiny_model("llama"), tmp_path / "adapter")
    shutil.copy(tmp_path / "adapter" / "config.json", tmp_path / "adapter" / "model.safetensors")
    with pytest.raises(MethodError, match="fine-tuned model cannot be loaded"):
        load_trained(tiny_model("llama"), tmp_path / "adapter")
