"""Logits, loss and gradients of megatron-core's RETRO and GPT, in float32; the README says what they are."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from retrotune.models import RetroConfig, RetroForCausalLM

CASES = {
    "case1_retro_L6": ("mcore", "legacy"),
    "case2_retro_L9_ragged": ("mcore", "legacy"),
    "case3_retro_L12_k3_B3": ("mcore", "legacy"),
    "case4_retro_L6_allpad": ("mcore", "legacy"),
    "case5_gpt_L6": ("mcore",),
}
RETRO_CASES = [name for name in CASES if "_retro_" in name]
FLAVORS = ["mcore", "legacy"]
DATA = Path(__file__).parent / "data"
ATOL = 1e-5


def names(config, key):
    """megatron-core's parameter name -> ours; fused matrices give several."""
    first = config.cross_attention_layers[0] if config.cross_attention_layers else None
    key = key.replace("embedding.word_embeddings.weight", "model.embed_tokens.weight")
    key = key.replace("output_layer.weight", "lm_head.weight").replace("decoder.final_layernorm", "model.norm")
    key = key.replace(f"decoder.layers.{first}.cross_attention.encoder.", "model.neighbor_encoder.")
    key = re.sub(r"^decoder\.", "model.", key)
    key = key.replace("pre_mlp_layernorm.norm", "mlp_norm").replace("pre_mlp_layernorm", "mlp_norm")
    key = key.replace("input_layernorm", "input_norm").replace("pre_cross_attn_layernorm", "cross_norm")
    key = key.replace("cross_attention.attn.", "cross_attention.")
    key = key.replace("self_attention.linear_proj", "self_attention.o_proj").replace("linear_proj", "o_proj")
    key = key.replace("linear_fc2", "down_proj").replace("cross_attention.linear_q.", "cross_attention.q_proj.")
    for fused, parts in (
        ("linear_qkv", ("q_proj", "k_proj", "v_proj")),
        ("linear_kv", ("k_proj", "v_proj")),
        ("linear_fc1", ("gate_proj", "up_proj")),
    ):
        if fused in key:
            return [key.replace(fused, part) for part in parts]
    return [key]


def parts(config, key, tensor):
    """A megatron-core tensor in our parts: rows of fused attention matrices are grouped by head."""
    ours = names(config, key)
    if len(ours) == 1:
        return {ours[0]: tensor}
    if "linear_fc1" in key:
        return dict(zip(ours, tensor.chunk(2), strict=True))
    grouped = tensor.unflatten(0, (config.num_attention_heads, len(ours), config.head_dim))
    return {name: grouped[:, i].flatten(0, 1) for i, name in enumerate(ours)}


def build(name, flavor, **changes):
    case = json.loads((DATA / name / "case.json").read_text())
    weights = load_file(DATA / case["weights"])
    shape = case["config"]
    config = RetroConfig(
        vocab_size=shape["vocab_size"],
        hidden_size=shape["hidden_size"],
        intermediate_size=shape["ffn_hidden_size"],
        num_hidden_layers=shape["num_layers"],
        num_attention_heads=shape["num_attention_heads"],
        chunk_length=shape.get("chunk_length") or 64,
        retrieved_length=shape.get("retrieved_length") or 128,
        cross_attention_layers=None if shape["model"] == "retro" else [],
        encoder_residual="normed" if flavor == "mcore" else "pre_norm",
        **({"short_chunk": "first"} | changes),
    )
    model = RetroForCausalLM(config).eval()
    state = {}
    for key, tensor in weights.items():
        if not config.cross_attention_layers and "cross_att" in key:
            continue
        norm = re.search(r"norm(\.norm)?\.weight$", key)
        state |= parts(config, key, tensor - 1 if norm else tensor)
    model.load_state_dict(state, strict=True)
    return model, case, load_file(DATA / name / "io.safetensors")


@pytest.mark.parametrize(("name", "flavor"), [(name, flavor) for name, flavors in CASES.items() for flavor in flavors])
def test_logits_loss_and_gradients(name, flavor):
    model, case, io = build(name, flavor)
    out = model(input_ids=io["input_ids"], neighbor_ids=io.get("neighbor_ids"))
    torch.testing.assert_close(out.logits, io[f"logits_{flavor}"], atol=ATOL, rtol=0)
    losses = torch.nn.functional.cross_entropy(out.logits.transpose(1, 2), io["labels"], reduction="none")
    loss = (losses * io["loss_mask"]).sum() / io["loss_mask"].sum()
    torch.testing.assert_close(loss[None], io[f"loss_{flavor}"], atol=ATOL, rtol=0)
    loss.backward()
    gradients = {key: value.grad for key, value in model.named_parameters()}
    checked = 0
    for key, expected in io.items():
        if key.startswith(f"grad_{flavor}."):
            for ours, value in parts(model.config, key.split(".", 1)[1], expected).items():
                torch.testing.assert_close(gradients[ours], value, atol=ATOL, rtol=0, msg=lambda m, k=ours: f"{k}: {m}")
                checked += 1
    assert checked > 0 or not case["gradients_stored"][flavor]
    norms = case["gradient_l2_norm_of_every_parameter"][flavor]
    for key, expected in norms.items():
        found = torch.cat([gradients[ours].flatten() for ours in names(model.config, key)]).norm().item()
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6), key


@pytest.mark.parametrize("flavor", FLAVORS)
def test_switched_off_retrieval_is_the_plain_gpt(flavor):
    _, _, gpt = build("case5_gpt_L6", "mcore")
    retro, _, io = build("case1_retro_L6", flavor)
    assert torch.equal(gpt["input_ids"], io["input_ids"])
    for off in ({}, {"neighbor_ids": io["neighbor_ids"], "retrieval_gate": 0.0}):
        out = retro(input_ids=io["input_ids"], **off).logits
        torch.testing.assert_close(out, gpt["logits_mcore"], atol=ATOL, rtol=0)


@pytest.mark.parametrize("flavor", FLAVORS)
def test_padding_neighbors_are_not_retrieval_off(flavor):
    """Megatron attends to padding like to any token."""
    retro, _, io = build("case4_retro_L6_allpad", flavor)
    assert not io["neighbor_ids"].any()
    padded = retro(input_ids=io["input_ids"], neighbor_ids=io["neighbor_ids"]).logits
    off = load_file(DATA / "case5_gpt_L6" / "io.safetensors")["logits_mcore"]
    assert (padded - off).abs().max() > 0.1


@pytest.mark.parametrize("name", RETRO_CASES)
@pytest.mark.parametrize("flavor", FLAVORS)
def test_the_encoder_reads_bags_of_words(name, flavor):
    """Neither the order of the tokens inside a neighbor nor the neighbors' ranks reach a logit."""
    model, _, io = build(name, flavor)
    ids_BLKR = io["neighbor_ids"]
    for same in (ids_BLKR.flip(-1), ids_BLKR.roll(3, -1), ids_BLKR.flip(-2), ids_BLKR.flip(-1, -2)):
        out = model(input_ids=io["input_ids"], neighbor_ids=same).logits
        torch.testing.assert_close(out, io[f"logits_{flavor}"], atol=ATOL, rtol=0)


@pytest.mark.parametrize("name", RETRO_CASES)
@pytest.mark.parametrize("flavor", FLAVORS)
def test_on_whole_chunks_the_short_chunk_may_lie_at_either_end(name, flavor):
    """Fine-tuning and generation count chunks from the front, the reference from the back."""
    model, case, io = build(name, flavor, short_chunk="last")
    out = model(input_ids=io["input_ids"], neighbor_ids=io["neighbor_ids"]).logits
    difference = (out - io[f"logits_{flavor}"]).abs().max().item()
    if case["seq_length"] % case["config"]["chunk_length"] == 0:
        assert difference <= ATOL
    else:
        assert difference > 0.1, "a ragged length has other borders"


@pytest.mark.parametrize("name", RETRO_CASES)
def test_where_neighbors_act_first(name):
    model, case, io = build(name, "mcore")
    plain = model(input_ids=io["input_ids"], neighbor_ids=io["neighbor_ids"]).logits
    for chunk, first in enumerate(case["first_position_changed_by_the_neighbors_of_chunk"]):
        changed = io["neighbor_ids"].clone()
        changed[:, chunk] = (changed[:, chunk] + 7) % model.config.vocab_size
        difference = (model(input_ids=io["input_ids"], neighbor_ids=changed).logits - plain).abs().amax((0, 2))
        assert difference.nonzero()[0].item() == first
