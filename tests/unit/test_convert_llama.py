"""Llama-like models converted: the same logits and the same generated tokens as transformers' own."""

import json

import pytest
import torch
from gguf import GGUFWriter, RopeScalingType
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from retrotune.errors import ModelError
from retrotune.models.convert.llama import read_gguf, read_llama
from retrotune.models.retro.configuration import RetroConfig
from retrotune.models.retro.modeling import RetroForCausalLM
from retrotune.models.sizes import departures

TINY = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 50.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
CONFIGS = {
    "llama": LlamaConfig(**TINY),
    "llama: tied, with biases": LlamaConfig(**TINY, tie_word_embeddings=True, attention_bias=True),
    "llama: one head of keys, narrow heads": LlamaConfig(**TINY | {"num_key_value_heads": 1}, head_dim=6),
    "llama: linear": LlamaConfig(
        **TINY, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}
    ),
    "llama: llama3": LlamaConfig(**TINY, rope_parameters=LLAMA3),
    "mistral": MistralConfig(**TINY, sliding_window=None, head_dim=12),
    "mistral: sliding": MistralConfig(**TINY, sliding_window=40),
    "qwen2": Qwen2Config(**TINY, tie_word_embeddings=True, rope_parameters={"rope_theta": 1e6, "rope_type": "default"}),
    "qwen2: sliding from layer 1": Qwen2Config(**TINY, use_sliding_window=True, sliding_window=40, max_window_layers=1),
    "qwen3": Qwen3Config(**TINY, head_dim=16, tie_word_embeddings=True),
    "qwen3: with biases": Qwen3Config(**TINY, head_dim=8, attention_bias=True),
}


def save(folder, config, **options):
    """A model with random weights everywhere, norms and biases as well; the folder and the model."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder, **options)
    return folder, model


def load(source):
    """Our model with a source's tensors, none missing, none left over."""
    model = RetroForCausalLM(source.config).eval()
    wanted = dict(model.named_parameters())
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in source.tensors.items()} == {
        name: (tuple(parameter.shape), parameter.dtype) for name, parameter in wanted.items()
    }
    with torch.no_grad():
        for name, tensor in source.tensors.items():
            wanted[name].copy_(tensor.read())
    return model


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request, tmp_path_factory):
    folder, theirs = save(tmp_path_factory.mktemp("model"), CONFIGS[request.param])
    return load(read_llama(folder)), theirs


def prompts(lengths, width):
    """(ids, mask), padded on the left."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, TINY["vocab_size"], (len(lengths), width), generator=generator)
    mask = (torch.arange(width)[None] >= width - torch.tensor(lengths)[:, None]).long()
    return ids * mask, mask


@torch.no_grad()
def test_logits_are_the_originals(pair):
    ours, theirs = pair
    ids, _ = prompts([40, 40], 40)
    torch.testing.assert_close(ours(input_ids=ids).logits, theirs(input_ids=ids).logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_logits_with_left_padding_are_the_originals(pair):
    ours, theirs = pair
    ids, mask = prompts([30, 17, 1], 30)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    expected = theirs(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    found = ours(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_cached_generation_is_the_originals(pair):
    ours, theirs = pair
    ids, mask = prompts([24, 9], 24)
    options = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": 95}
    assert ours.generate(ids, **options).tolist() == theirs.generate(ids, **options).tolist()


def test_a_sliding_window_bounds_the_positions(tmp_path):
    for number, name in enumerate(["mistral: sliding", "qwen2: sliding from layer 1"]):
        folder, _ = save(tmp_path / str(number), CONFIGS[name])
        source = read_llama(folder)
        assert source.config.max_position_embeddings == 40
        assert "40 of 64" in source.origin["window"]


def test_a_window_that_no_layer_uses_bounds_nothing(tmp_path):
    config = Qwen2Config(**TINY, use_sliding_window=True, sliding_window=8, max_window_layers=3)
    source = read_llama(save(tmp_path, config)[0])
    assert source.config.max_position_embeddings == 64
    assert "window" not in source.origin


def test_shards_give_the_tensors_of_one_file(tmp_path):
    _, theirs = save(tmp_path / "one", CONFIGS["qwen3"])
    theirs.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    one, many = read_llama(tmp_path / "one"), read_llama(tmp_path / "many")
    assert len(many.origin["files"]) > 2
    assert one.tensors.keys() == many.tensors.keys()
    assert all(torch.equal(one.tensors[name].read(), many.tensors[name].read()) for name in one.tensors)


def test_half_precision_is_kept(tmp_path):
    _, theirs = save(tmp_path, CONFIGS["llama"])
    theirs.to(torch.bfloat16).save_pretrained(tmp_path)
    assert {tensor.dtype for tensor in read_llama(tmp_path).tensors.values()} == {torch.bfloat16}


def add(folder, extra):
    file = folder / "model.safetensors"
    save_file(load_file(file) | extra, file, metadata={"format": "pt"})


def test_tied_matrices_in_the_file_are_one_or_two_as_they_are(tmp_path):
    folder, theirs = save(tmp_path, CONFIGS["qwen2"])
    matrix = theirs.lm_head.weight.detach().clone()
    add(folder, {"lm_head.weight": matrix, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    source = read_llama(folder)
    assert source.config.tie_word_embeddings
    assert source.origin["dropped"] == ["lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"]
    load(source)
    add(folder, {"lm_head.weight": matrix + 1})
    source = read_llama(folder)
    assert not source.config.tie_word_embeddings
    assert torch.equal(load(source).lm_head.weight, matrix + 1)


def test_foreign_tensors_keep_their_names(tmp_path):
    folder, _ = save(tmp_path, CONFIGS["llama"])
    add(folder, {"model.layers.0.self_attn.gate.weight": torch.ones(1), "vision.weight": torch.ones(1)})
    names = read_llama(folder).tensors.keys()
    assert {"model.layers.0.self_attention.gate.weight", "vision.weight"} <= names


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "gemma"}, "model_type='gemma'"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"mlp_bias": True}, "mlp_bias=True"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "rope_type='dynamic'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}}, "rope_type='yarn'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type='dynamic'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers"),
        ({"hidden_size": 33}, "33"),
        ({"num_attention_heads": 0}, "config.json"),
    ],
)
def test_what_is_not_read_is_refused_by_name(tmp_path, changes, named):
    folder, _ = save(tmp_path, CONFIGS["llama"])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ModelError, match="config.json") as caught:
        read_llama(folder)
    assert named in str(caught.value)


def test_damaged_folders_name_the_file(tmp_path):
    with pytest.raises(ModelError, match="config.json"):
        read_llama(tmp_path)
    _, theirs = save(tmp_path, CONFIGS["llama"])
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"model\.safetensors: truncated"):
        read_llama(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors missing"):
        read_llama(tmp_path)

    index = tmp_path / "shards" / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    name, file = next(iter(content["weight_map"].items()))
    (tmp_path / "shards" / file).rename(tmp_path / "shards" / "elsewhere")
    with pytest.raises(ModelError, match=f"{file} missing"):
        read_llama(tmp_path / "shards")
    (tmp_path / "shards" / "elsewhere").rename(tmp_path / "shards" / file)
    index.write_text(json.dumps({"weight_map": content["weight_map"] | {"lost.weight": file}}))
    with pytest.raises(ModelError, match=r"lost\.weight"):
        read_llama(tmp_path / "shards")
    index.write_text(json.dumps({"weight_map": {name: "../model.safetensors"}}))
    with pytest.raises(ModelError, match="not a safetensors file of this folder"):
        read_llama(tmp_path / "shards")


def gguf(path, config, model, extra=(), scaling=None):
    """The model as a GGUF file, whose llama has interleaved rotary pairs."""
    writer = GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    if scaling:
        writer.add_rope_scaling_type(scaling)
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "model.layers": "blk", "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    }  # fmt: skip
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, parameter in model.named_parameters():
        tensor = parameter.detach()
        for part, count in heads.items():
            if part in name:
                tensor = tensor.reshape(count, 2, -1, config.hidden_size).swapaxes(1, 2).reshape(tensor.shape)
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        writer.add_tensor(name, tensor.contiguous().numpy())
    for name, tensor in extra:
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@torch.no_grad()
def test_gguf_gives_the_originals_logits(tmp_path):
    config = CONFIGS["llama"]
    _, theirs = save(tmp_path / "model", config)
    file = gguf(tmp_path / "tiny.gguf", config, theirs)
    source = read_gguf(file)
    assert source.tokenizer == file
    ids, _ = prompts([20], 20)
    torch.testing.assert_close(load(source)(input_ids=ids).logits, theirs(input_ids=ids).logits, atol=1e-5, rtol=1e-5)


def test_gguf_that_is_not_read_is_refused_by_name(tmp_path):
    with pytest.raises(ModelError, match=r"absent\.gguf: no such file"):
        read_gguf(tmp_path / "absent.gguf")
    (tmp_path / "noise.gguf").write_bytes(b"GGUF" + bytes(range(256)))
    with pytest.raises(ModelError, match=r"noise\.gguf"):
        read_gguf(tmp_path / "noise.gguf")
    config = CONFIGS["llama"]
    _, theirs = save(tmp_path / "model", config)
    scaled = gguf(tmp_path / "scaled.gguf", config, theirs, [("rope_freqs.weight", torch.ones(4))])
    with pytest.raises(ModelError, match="rope_freqs"):
        read_gguf(scaled)
    scaled = gguf(tmp_path / "yarn.gguf", config, theirs, scaling=RopeScalingType.YARN)
    with pytest.raises(ModelError, match=r"rope\.scaling"):
        read_gguf(scaled)
    assert read_gguf(gguf(tmp_path / "plain.gguf", config, theirs, scaling=RopeScalingType.NONE)).tensors
    whole = gguf(tmp_path / "whole.gguf", config, theirs).read_bytes()
    (tmp_path / "part.gguf").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"part\.gguf"):
        read_gguf(tmp_path / "part.gguf")


def test_departures_name_what_llamas_have(tmp_path):
    source = read_llama(save(tmp_path, Qwen3Config(**TINY, head_dim=8, attention_bias=True))[0])
    said = " ".join(departures(source.config))
    assert all(part in said for part in ("rmsnorm", "4 heads share 2", "normed", "biases", "100%"))
    assert departures(RetroConfig()) == []


def test_encoder_and_new_parts_follow_the_decoder():
    config = RetroConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, cross_attention_layers=[1], qk_norm=True, attention_output_bias=True, norm="rmsnorm",
        chunk_length=4, retrieved_length=6,
    )  # fmt: skip
    torch.manual_seed(0)
    model = RetroForCausalLM(config).eval()
    encoder = model.model.neighbor_encoder.layers[0]
    assert encoder.self_attention.k_proj.weight.shape == (16, 32)
    assert torch.equal(encoder.self_attention.q_norm.weight, torch.ones(8))
    assert torch.equal(encoder.self_attention.o_proj.bias, torch.zeros(32))
    assert model.model.layers[1].cross_attention.k_proj.weight.shape == (32, 32)
    logits = model(input_ids=torch.arange(8)[None], neighbor_ids=torch.arange(12).view(1, 2, 6)).logits
    assert torch.isfinite(logits).all()


def test_frequencies_must_fit_the_heads():
    with pytest.raises(StrictDataclassError, match="3 rotary_frequencies"):
        RetroConfig(hidden_size=32, num_attention_heads=4, rotary_share=1.0, rotary_frequencies=[1.0, 0.5, 0.1])
