"""IA3: which vectors there are, what they multiply, and what becomes of hub models with other projections."""

import json

import pytest
import torch
from methods_cases import FAMILIES, batch, greedy, perturb, prompts, tiny_model
from safetensors.torch import load_file
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from retrotune.errors import MethodError
from retrotune.methods import METHODS, Shape, attach, count_parameters, fingerprint, load_trained, save_trained
from retrotune.methods.ia3 import Ia3Method
from retrotune.study.config import load_config

IA3 = Ia3Method(kind="ia3")


def trained_weights(model):
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def changed(family):
    model = attach(tiny_model(family), IA3).eval()
    perturb(model)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_fresh_one_changes_nothing_and_disabling_restores(family):
    inputs, base = prompts(family), tiny_model(family)
    before = base(**inputs).logits
    model = attach(base, IA3).eval()
    assert torch.equal(model(**inputs).logits, before)
    perturb(model)
    assert (model(**inputs).logits - before).abs().max() > 1e-3
    with model.disable_adapter():
        assert torch.equal(model(**inputs).logits, before)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_only_in_its_vectors(family):
    model = changed(family)
    model(**batch(family)).loss.backward()
    names = set(trained_weights(model))
    assert all(".ia3_l." in name and "cross_attention" not in name for name in names)
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == names
    assert all(parameter.grad.abs().max() > 0 for parameter in trained_weights(model).values())
    ends = {".".join(name.split(".ia3_l")[0].split(".")[-2:]) for name in names}
    attention = "self_attn" if family == "llama" else "self_attention"
    assert ends == {f"{attention}.k_proj", f"{attention}.v_proj", "mlp.down_proj"}


def test_vectors_multiply_keys_values_and_inner_activations():
    base = tiny_model("llama")
    model = changed("llama")
    ours, plain = model.get_base_model().model.layers[0], base.model.layers[0]
    hidden_BTD, inner_BTF = torch.randn(2, 5, 32), torch.randn(2, 5, 48)
    for name in ("k_proj", "v_proj"):
        projection, expected = getattr(ours.self_attn, name), getattr(plain.self_attn, name)(hidden_BTD)
        vector = projection.ia3_l["default"].flatten()
        torch.testing.assert_close(projection(hidden_BTD), expected * vector)
    vector = ours.mlp.down_proj.ia3_l["default"].flatten()
    torch.testing.assert_close(ours.mlp.down_proj(inner_BTF), plain.mlp.down_proj(inner_BTF * vector))


def test_learns():
    model, inputs = attach(tiny_model("retro"), IA3), batch("retro")
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(20):
        loss = model(**inputs).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.05


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_loaded_bitwise(tmp_path, family):
    model, inputs = changed(family), prompts(family)
    save_trained(model, tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "retrotune.json").read_text())["method"] == "ia3"
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert saved.keys() == {name.replace(".default", "") for name in trained_weights(model)}
    loaded = load_trained(tiny_model(family), tmp_path / "adapter")
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    assert not trained_weights(loaded)
    assert torch.equal(greedy(loaded, inputs), greedy(model, inputs, use_cache=False))


def test_refused_for_another_base_model(tmp_path):
    model = changed("llama")
    assert fingerprint(model) == fingerprint(tiny_model("llama"))
    save_trained(model, tmp_path / "adapter")
    with pytest.raises(MethodError, match="trained for another model: model_type llama"):
        load_trained(tiny_model("llama", seed=1), tmp_path / "adapter")


@pytest.mark.parametrize(
    ("family", "changes", "count"),
    [
        ("llama", {}, 2 * (32 + 32 + 48)),
        ("gpt", {"num_key_value_heads": 2}, 2 * (16 + 16 + 48)),
        ("retro", {}, 4 * (32 + 32 + 48)),
    ],
)
def test_counts(family, changes, count):
    """Two layers and RETRO's two in the encoder: keys, values and inner activations."""
    model = tiny_model(family, **changes)
    shape = Shape.of(model.config)
    assert count_parameters(attach(model, IA3))[0] == count == METHODS["ia3"].num_parameters(IA3, shape)


def test_vectors_are_float32_on_a_bfloat16_model():
    model = attach(tiny_model("retro").to(torch.bfloat16), IA3)
    assert {parameter.dtype for parameter in trained_weights(model).values()} == {torch.float32}
    before = tiny_model("retro").to(torch.bfloat16)(**prompts("retro")).logits
    assert torch.equal(model.eval()(**prompts("retro")).logits, before)
    with torch.autocast("cpu", torch.bfloat16):
        model(**batch("retro")).loss.backward()
    assert {parameter.grad.dtype for parameter in trained_weights(model).values()} == {torch.float32}


def gpt2():
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2)
    return GPT2LMHeadModel(config)


def pythia():
    config = GPTNeoXConfig(
        vocab_size=64, hidden_size=32, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    return GPTNeoXForCausalLM(config)


def opt():
    return OPTForCausalLM(
        OPTConfig(vocab_size=64, hidden_size=32, ffn_dim=48, num_hidden_layers=1, num_attention_heads=4)
    )


def mixtral():
    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=4,
            num_local_experts=2,
        )
    )


@pytest.mark.parametrize("make", [gpt2, pythia])
@pytest.mark.filterwarnings("error:fan_in_fan_out")
def test_a_fused_projection_is_scaled_whole(make):
    torch.manual_seed(0)
    base = make().eval()
    inputs = prompts("gpt2")
    before = base(**inputs).logits
    model = attach(base, IA3).eval()
    assert torch.equal(model(**inputs).logits, before)
    assert count_parameters(model)[0] == 2 * (3 * 32 + 128)
    perturb(model)
    assert (model(**inputs).logits - before).abs().max() > 1e-4
    assert torch.equal(greedy(model, inputs), greedy(model, inputs, use_cache=False))


@pytest.mark.parametrize(
    ("make", "name"), [(opt, "OPTForCausalLM"), (mixtral, "MixtralForCausalLM")], ids=["opt", "mixtral"]
)
def test_models_without_known_down_projections_are_refused(make, name):
    with pytest.raises(MethodError, match=f"ia3: no down projection of an MLP found in {name}, layers model.*layers.0"):
        attach(make(), IA3)


def test_half_a_model_is_refused():
    base = tiny_model("llama")
    base.model.layers[1].mlp = torch.nn.Linear(32, 32)
    with pytest.raises(
        MethodError, match=r"no down projection of an MLP found in LlamaForCausalLM, layers model.layers.1 \(1 of 2\)"
    ):
        attach(base, IA3)


def test_a_study_can_name_it():
    raw = {
        "study": "s",
        "datasets": {"nq": {"reader": "nq", "path": "nq"}},
        "retrievals": {"none": {"top_k": 0}},
        "models": {"g": {"family": "gpt", "size": "xs", "hub": "a/b"}},
        "methods": {"fast": {"kind": "ia3", "finetuning": {"learning_rate": 3e-3}}},
        "grid": [{"retrievals": ["none"]}],
    }
    config = load_config(raw)
    assert config.methods["fast"] == Ia3Method(kind="ia3", finetuning={"learning_rate": 3e-3})
    assert config.finetuning_of("fast").learning_rate == 3e-3
