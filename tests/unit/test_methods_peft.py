"""LoRA, adapters and the rest as methods: what is trained, what a fresh method changes, generation, counts."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from methods_cases import (
    ADAPTER,
    FAMILIES,
    FULL,
    LORA,
    PTUNING,
    TRAINED,
    batch,
    greedy,
    method_id,
    perturb,
    prompts,
    tiny_model,
)
from peft import PeftModel, PeftType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from torch import nn
from transformers import BloomConfig, BloomForCausalLM, GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from retrotune.errors import MethodError
from retrotune.methods import attach, count_parameters, num_virtual_tokens
from retrotune.methods.adapter import num_adapter_parameters
from retrotune.methods.bottleneck import AdapterConfig, AdapterModel
from retrotune.methods.lora import num_lora_parameters
from retrotune.methods.names import ADAPTER_TYPE, PTUNING_TYPE
from retrotune.methods.peft_extension import extend_peft_type
from retrotune.models import RetroForCausalLM
from retrotune.models.sizes import model_config
from retrotune.study.config import AdapterMethod, LoraMethod, ZeroshotMethod


def trained_names(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [LORA, ADAPTER], ids=method_id)
def test_fresh_method_changes_nothing_and_disabling_restores(family, method):
    inputs, base = prompts(family), tiny_model(family)
    before = base(**inputs).logits
    model = attach(base, method).eval()
    assert torch.equal(model(**inputs).logits, before)
    perturb(model)
    assert (model(**inputs).logits - before).abs().max() > 1e-3
    with model.disable_adapter():
        assert torch.equal(model(**inputs).logits, before)


def test_zeroshot_trains_nothing():
    model = attach(tiny_model("llama"), ZeroshotMethod(kind="zeroshot"))
    assert trained_names(model) == set()
    assert count_parameters(model)[0] == 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", TRAINED, ids=method_id)
def test_gradients_only_in_trained_weights(family, method):
    model = attach(tiny_model(family), method)
    perturb(model)
    model(**batch(family)).loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name
    if method is not FULL:
        assert all(part in name for name in trained_names(model) for part in [{"lora": "lora_"}.get(method.kind, "_")])
        assert not any("cross_attention" in name for name in trained_names(model))


@pytest.mark.parametrize(("method", "per_layer"), [(LORA, 3), (ADAPTER, 2)], ids=["lora", "adapter"])
def test_retro_encoder_is_covered(method, per_layer):
    model = attach(tiny_model("retro"), method)
    decoder = model.get_base_model().config.num_hidden_layers
    encoder = len(model.get_base_model().model.neighbor_encoder.layers)
    names = model.targeted_module_names
    assert len([name for name in names if "neighbor_encoder" in name]) == per_layer * encoder
    assert len(names) == per_layer * (decoder + encoder)
    if method is ADAPTER:
        shapes = {("neighbor_encoder" in name, p.shape[0]) for name, p in model.named_parameters() if "_down" in name}
        assert shapes == {(False, 6), (True, 5)}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", TRAINED, ids=method_id)
def test_cached_generation_equals_uncached(family, method):
    model = attach(tiny_model(family), method).eval()
    perturb(model)
    inputs = prompts(family)
    cached = greedy(model, inputs)
    assert torch.equal(cached, greedy(model, inputs, use_cache=False))
    assert torch.equal(cached[:, :12], inputs["input_ids"])
    assert cached.shape == (2, 20)


def test_counts_follow_the_formulas():
    layers, width = 2, 32
    assert count_parameters(attach(tiny_model("llama"), LORA))[0] == num_lora_parameters(layers, width, 3)
    assert count_parameters(attach(tiny_model("llama"), ADAPTER))[0] == num_adapter_parameters(layers, width, 6)
    base = sum(p.numel() for p in tiny_model("llama").parameters())
    assert count_parameters(attach(tiny_model("llama"), FULL)) == (base, base)
    # an embedding of 4 x 32 and an MLP 32 -> 12 -> 12 -> 32
    encoder = 4 * 32 + (32 * 12 + 12) + (12 * 12 + 12) + (12 * 32 + 32)
    assert count_parameters(attach(tiny_model("llama"), PTUNING)) == (encoder, base + encoder)


def test_counts_of_the_paper_sizes():
    """Extra Small and Extra Extra Large, GPT and RETRO (two encoder layers more), at rank or bottleneck 32."""
    assert num_lora_parameters(24, 1024, 32, fused=True) == 3_145_728
    assert num_lora_parameters(26, 1024, 32, fused=True) == 3_407_872
    assert num_lora_parameters(24, 1024, 32) == 4_718_592
    assert num_adapter_parameters(24, 1024, 32) == 3_244_032
    assert num_adapter_parameters(26, 1024, 32) == 3_514_368
    assert round(num_adapter_parameters(50, 8192, 32) / 1e6, 1) == 54.1


@pytest.mark.parametrize(("family", "layers", "millions"), [("gpt", 24, 823.2), ("retro", 26, 877.5)])
def test_counts_of_extra_small_models(family, layers, millions):
    for method, expected in (
        (LoraMethod(kind="lora", rank=32), num_lora_parameters(layers, 1024, 32)),
        (AdapterMethod(kind="adapter", bottleneck_dim=32), num_adapter_parameters(layers, 1024, 32)),
    ):
        with torch.device("meta"):
            model = attach(RetroForCausalLM(model_config(family, "xs")), method)
        trained, total = count_parameters(model)
        assert trained == expected
        assert round((total - trained) / 1e6, 1) == millions


def test_adapter_output_is_the_formula():
    base = tiny_model("llama")
    reference = copy.deepcopy(base.model.layers[0].mlp)
    model = attach(base, ADAPTER).eval()
    perturb(model)
    layer = model.get_base_model().model.layers[0].mlp
    hidden_BTD = torch.randn(2, 5, 32)
    branch_BTD = reference(hidden_BTD)
    mean, variance = branch_BTD.mean(-1, keepdim=True), branch_BTD.var(-1, keepdim=True, unbiased=False)
    norm = layer.bottleneck_norm["default"]
    normed_BTD = (branch_BTD - mean) / (variance + 1e-5).sqrt() * norm.weight + norm.bias
    down_BTA = normed_BTD @ layer.bottleneck_down["default"].weight.T
    expected_BTD = branch_BTD + (down_BTA * down_BTA.sigmoid()) @ layer.bottleneck_up["default"].weight.T
    torch.testing.assert_close(layer(hidden_BTD), expected_BTD)


@pytest.mark.parametrize("method", [LORA, ADAPTER, PTUNING], ids=method_id)
def test_new_weights_are_float32_on_a_bfloat16_model(method):
    model = attach(tiny_model("llama").to(torch.bfloat16), method)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    logits = model(**prompts("llama")).logits
    assert logits.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        model(**batch("llama")).loss.backward()


@pytest.mark.parametrize("family", ["llama", "retro"])
def test_two_adapters_in_one_model(family):
    inputs = prompts(family)
    model = attach(tiny_model(family), ADAPTER).eval()
    perturb(model)
    first = model(**inputs).logits
    model.add_adapter("second", AdapterConfig(task_type="CAUSAL_LM", bottleneck_dim=3))
    assert torch.equal(model(**inputs).logits, first)
    assert not any(".second." in name for name in trained_names(model))
    model.set_adapter("second")
    assert trained_names(model)
    assert all(".second." in name for name in trained_names(model))
    with model.disable_adapter():
        base = model(**inputs).logits
    assert torch.equal(model(**inputs).logits, base)
    model.delete_adapter("second")
    model.set_adapter("default")
    assert torch.equal(model(**inputs).logits, first)


@pytest.mark.parametrize("method", [ADAPTER, PTUNING], ids=method_id)
def test_merge_is_refused_and_unload_gives_the_base_back(method):
    base = tiny_model("llama")
    before = base(**prompts("llama")).logits
    names = {name for name, _ in base.named_parameters()}
    model = attach(base, method)
    perturb(model)
    for merge in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(MethodError, match="cannot be merged.*unload"):
            merge()
    restored = model.unload()
    assert {name for name, _ in restored.named_parameters()} == names
    assert torch.equal(restored(**prompts("llama")).logits, before)


def test_peft_entry_points_know_the_adapter(tmp_path):
    model = get_peft_model(tiny_model("llama"), AdapterConfig(task_type="CAUSAL_LM", bottleneck_dim=4)).eval()
    assert isinstance(model.base_model, AdapterModel)
    perturb(model)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model("llama"), tmp_path, adapter_name="other")
    assert torch.equal(loaded(**prompts("llama")).logits, model(**prompts("llama")).logits)
    lean = PeftModel.from_pretrained(tiny_model("llama"), tmp_path, low_cpu_mem_usage=True, torch_device="cpu")
    assert torch.equal(lean(**prompts("llama")).logits, model(**prompts("llama")).logits)


@pytest.mark.parametrize("name", [ADAPTER_TYPE, PTUNING_TYPE])
def test_peft_enum_extension_still_works(name):
    """Fails when peft (or Python) changes what `PeftType` is made of: mend `methods/peft_extension.py`."""
    member = PeftType(name)
    assert member is PeftType[name] is getattr(PeftType, name) is extend_peft_type(name)
    assert member in list(PeftType)
    assert member == name
    assert hash(member) == hash(name)
    assert copy.deepcopy(member) is member
    assert json.dumps(member) == f'"{name}"'
    assert member in PEFT_TYPE_TO_TUNER_MAPPING
    assert name in PEFT_TYPE_TO_TUNER_MAPPING
    assert PeftType.LORA is PeftType("LORA")


def test_loading_without_our_import_says_what_to_import(tmp_path):
    get_peft_model(tiny_model("llama"), AdapterConfig(task_type="CAUSAL_LM")).save_pretrained(tmp_path)
    script = (
        "import sys; from peft import PeftConfig; assert 'retrotune' not in sys.modules; "
        f"PeftConfig.from_pretrained({str(tmp_path)!r})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "IMPORT_RETROTUNE_METHODS" in done.stderr.splitlines()[-1]


def test_no_target_is_an_error():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(4, 4)])

    for method, missing in ((LORA, "query projection, no key"), (ADAPTER, "self-attention")):
        with pytest.raises(MethodError, match=f"^{method.kind}: no {missing}.* found in Plain"):
            attach(Plain(), method)


def test_models_that_an_adapter_does_not_fit():
    opt = OPTForCausalLM(
        OPTConfig(vocab_size=64, hidden_size=32, ffn_dim=48, num_hidden_layers=1, num_attention_heads=4)
    )
    with pytest.raises(
        MethodError, match="adapter: no MLP found in OPTForCausalLM, layers .*, which hold self_attn, fc1, fc2"
    ):
        attach(opt, ADAPTER)
    bloom = BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=4))
    with pytest.raises(MethodError, match="self_attention of BloomForCausalLM adds the residual itself"):
        attach(bloom, ADAPTER)


@pytest.mark.parametrize("method", TRAINED, ids=method_id)
def test_hub_models_of_another_make(method):
    """GPT-2: a fused projection of its own kind, learned positions, other module names."""
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2)
    model = attach(GPT2LMHeadModel(config), method).eval()
    perturb(model)
    assert torch.equal(greedy(model, prompts("gpt2")), greedy(model, prompts("gpt2"), use_cache=False))


@pytest.mark.parametrize("method", [LORA, ADAPTER, PTUNING], ids=method_id)
def test_training_resumes_from_a_checkpoint_as_the_trainer_does_it(tmp_path, method):
    model = attach(tiny_model("llama"), method).eval()
    perturb(model)
    model.save_pretrained(tmp_path)
    resumed = attach(tiny_model("llama"), method)
    resumed.load_adapter(tmp_path, "default", is_trainable=True)
    assert trained_names(resumed) == trained_names(model)
    assert torch.equal(resumed.eval()(**prompts("llama")).logits, model(**prompts("llama")).logits)


def test_unknown_kind_is_an_error():
    with pytest.raises(MethodError, match="unknown method kind 'prefix'; known: zeroshot, lora"):
        attach(tiny_model("llama"), LoraMethod.model_construct(kind="prefix"))


def test_num_virtual_tokens():
    assert [num_virtual_tokens(method) for method in (LORA, ADAPTER, PTUNING, FULL)] == [0, 0, 4, 0]


def test_lora_scale():
    scales = []
    for alpha in (None, 12.0):
        model = attach(tiny_model("llama"), LoraMethod(kind="lora", rank=4, alpha=alpha))
        scales.append(model.get_base_model().model.layers[0].self_attn.q_proj.scaling["default"])
    assert scales == [1.0, 3.0]
