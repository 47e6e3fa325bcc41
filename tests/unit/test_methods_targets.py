"""Which modules methods change: all layers or a refusal, and those that a study names."""

import json
import logging
from typing import Any

import pytest
import torch
from methods_cases import FAMILIES, perturb, tiny_model
from transformers import (
    AutoModelForCausalLM,
    DeepseekV2Config,
    GPT2Config,
    JambaConfig,
    Lfm2Config,
    LlamaConfig,
    PreTrainedModel,
    Qwen3NextConfig,
)

from retrotune.errors import ConfigError, MethodError
from retrotune.methods import METHODS, attach, load_trained, save_trained
from retrotune.study.config import load_config

WIDTHS: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LATENT = {
    "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "n_routed_experts": 2,
    "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1,
}  # fmt: skip
CONFIGS = {
    "llama": lambda: LlamaConfig(**WIDTHS),
    "gpt2": lambda: GPT2Config(vocab_size=64, n_embd=32, n_layer=4, n_head=4, bos_token_id=1, eos_token_id=2),
    "qwen3-next": lambda: Qwen3NextConfig(
        **WIDTHS, head_dim=8, linear_num_value_heads=2, linear_num_key_heads=2, linear_key_head_dim=8,
        linear_value_head_dim=8, num_experts=0,
    ),
    "lfm2": lambda: Lfm2Config(**WIDTHS, layer_types=["conv", "full_attention"] * 2),
    "jamba": lambda: JambaConfig(**WIDTHS, attn_layer_period=2, attn_layer_offset=1, num_experts=1),
    "deepseek": lambda: DeepseekV2Config(**WIDTHS, **LATENT, q_lora_rank=None),
    "deepseek-low-rank": lambda: DeepseekV2Config(**WIDTHS, **LATENT, q_lora_rank=8),
}  # fmt: skip


def model_of(name: str) -> PreTrainedModel:
    if name not in CONFIGS:
        return tiny_model(name)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()


def method(kind: str, **values: Any) -> Any:
    return METHODS[kind].schema(kind=kind, **values)


@pytest.mark.parametrize("name", [*FAMILIES, "gpt2"])
@pytest.mark.parametrize("kind", ["lora", "adapter", "ia3"])
def test_usual_targets_are_in_every_layer(name, kind):
    names = attach(model_of(name), method(kind)).targeted_module_names
    numbers = {number for name in names for number in name.split(".") if number.isdigit()}
    assert numbers == set("01" if name in ("gpt", "retro") else "0123")


@pytest.mark.parametrize(
    ("name", "kind", "lacks", "layers", "held"),
    [
        ("qwen3-next", "lora", "query projection", "0-2 (3 of 4)", "linear_attn.in_proj_qkvz"),
        ("qwen3-next", "adapter", "self-attention", "0-2 (3 of 4)", "linear_attn, mlp"),
        ("qwen3-next", "ia3", "key projection", "0-2 (3 of 4)", "linear_attn.in_proj_qkvz"),
        ("lfm2", "lora", "value projection", "0, model.layers.2 (2 of 4)", "conv.in_proj"),
        ("lfm2", "adapter", "self-attention", "0, model.layers.2 (2 of 4)", "conv, feed_forward"),
        ("lfm2", "ia3", "down projection of an MLP", "0-3 (4 of 4)", "feed_forward.w2"),
        ("jamba", "lora", "query projection", "0, model.layers.2 (2 of 4)", "mamba.in_proj"),
        ("jamba", "ia3", "value projection", "0, model.layers.2 (2 of 4)", "feed_forward.down_proj"),
        ("deepseek", "lora", "key projection, no value projection", "0-3 (4 of 4)", "self_attn.kv_a_proj_with_mqa"),
        ("deepseek-low-rank", "lora", "query projection", "0-3 (4 of 4)", "self_attn.q_a_proj"),
    ],
)  # fmt: skip
def test_usual_targets_of_a_part_of_the_layers_are_refused(name, kind, lacks, layers, held):
    with pytest.raises(MethodError) as error:
        attach(model_of(name), method(kind))
    message = str(error.value)
    assert message.startswith(f"{kind}: no ")
    for said in (f"no {lacks}", f"layers model.layers.{layers}", held, "methods.NAME.targets"):
        assert said in message


def test_usual_targets_that_others_have_are_offered():
    with pytest.raises(MethodError, match=r"; \[k_proj, q_proj, v_proj\] alone leaves these layers as they are"):
        attach(model_of("jamba"), method("lora"))


@pytest.mark.parametrize(
    ("name", "entry", "count", "left"),
    [
        ("qwen3-next", method("lora", targets=("q_proj", "k_proj")), 2, "model.layers.0-2"),
        ("qwen3-next", method("lora", targets=("q_proj", "linear_attn.in_proj_qkvz")), 4, "none"),
        ("qwen3-next", method("adapter", targets=("self_attn", "linear_attn")), 4, "none"),
        ("lfm2", method("ia3", input_targets=("w2",)), 4, "none"),
        ("jamba", method("ia3", targets=("k_proj", "v_proj"), input_targets=("3.feed_forward.down_proj",)), 5,
         "model.layers.0, model.layers.2"),
        ("gpt2", method("lora", targets=("h.0.attn.c_attn", "h.1.mlp.c_fc")), 2, "transformer.h.2-3"),
        ("retro", method("lora", targets=("cross_attention.q_proj",)), 2, "model.layers.0"),
    ],
)  # fmt: skip
def test_named_targets_are_changed_and_counted(tmp_path, caplog, name, entry, count, left):
    caplog.set_level(logging.INFO, "retrotune")
    logging.getLogger("retrotune").propagate = True
    ids = torch.randint(3, 60, (2, 8))
    model = attach(model_of(name), entry).eval()
    assert f"that are changed: {count}; layers left out: {left}" in caplog.text
    if name == "retro":  # whose cross-attention needs neighbors
        return
    before = model(ids).logits
    perturb(model)
    changed = model(ids, labels=ids)
    assert not torch.equal(changed.logits, before)
    changed.loss.backward()
    assert all(weight.grad is not None for weight in model.parameters() if weight.requires_grad)
    save_trained(model, tmp_path / "trained")
    assert torch.equal(load_trained(model_of(name), tmp_path / "trained")(ids).logits, changed.logits)


def test_inputs_are_scaled_where_a_study_says_so():
    model = attach(model_of("llama"), method("ia3", targets=("up_proj",), input_targets=("down_proj",)))
    layer = model.get_base_model().model.layers[3].mlp
    assert layer.up_proj.ia3_l["default"].shape == (48, 1)
    assert layer.down_proj.ia3_l["default"].shape == (1, 48)


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        ("llama", method("lora", targets=("q_proj", "qproj")), "'qproj'.*no module.*nearest: q_proj"),
        ("gpt2", method("ia3", targets=("attn.cattn",)), "'attn.cattn'.*nearest: attn.c_attn"),
        ("llama", method("ia3", input_targets=("proj",)), "'proj'.*no module of LlamaForCausalLM"),
        ("lfm2", method("lora", targets=("conv.conv", "conv",)), "layers.0.conv .*no linear module.*in_proj"),
        ("llama", method("lora", targets=("norm",)), "(.|\\n)*not supported(.|\\n)*correct methods.NAME.targets"),
        ("llama", method("adapter", targets=("mlp.gate_proj",)), "gate_proj.*output of width 48, .* take 32"),
        ("llama", method("adapter", targets=("layers",)), "model.layers .*has no output"),
        ("llama", method("adapter", targets=("mlp.act_fn",)), "act_fn .*no weights of its own"),
        ("llama", method("adapter", targets=("mlp", "down_proj")), "0.mlp.down_proj .*lies in model.layers.0.mlp"),
    ],
)  # fmt: skip
def test_targets_that_cannot_be_changed_are_refused(name, entry, message):
    with pytest.raises(MethodError, match=f"{entry.kind}: .*{message}"):
        attach(model_of(name), entry)


def test_a_study_names_targets():
    raw = {
        "study": "s",
        "datasets": {"nq": {"reader": "nq", "path": "nq"}},
        "retrievals": {"none": {"top_k": 0}},
        "models": {"g": {"family": "gpt", "size": "xs", "hub": "a/b"}},
        "methods": {"part": {"kind": "adapter", "targets": ["mlp"]}},
        "grid": [{"retrievals": ["none"]}],
    }
    assert load_config(raw).methods["part"] == method("adapter", targets=("mlp",))
    for wrong in ([], ["*.mlp"], [""]):
        changed = json.loads(json.dumps(raw))
        changed["methods"]["part"]["targets"] = wrong
        with pytest.raises(ConfigError, match=r"methods\.part.*targets"):
            load_config(changed)
