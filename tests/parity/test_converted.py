"""Checkpoints that hold megatron-core's reference model: converted, they are that model."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_parity import parts

from retrotune.models.convert import convert_checkpoint
from retrotune.models.loading import load_model

DATA = Path(__file__).parent / "data"
REFERENCE = DATA / "case1_retro_L6"
ATOL = 1e-5

CASES = {
    "case6a_legacy_tp1": ("legacy", {"chunk_length": 8, "vocab_size": 260}),
    "case6b_legacy_tp2": ("legacy", {"chunk_length": 8, "vocab_size": 260}),
    "case7_torch_dist": ("mcore", {"vocab_size": 260}),
}


@pytest.mark.parametrize("name", CASES)
def test_weights_and_logits(tmp_path, name):
    flavor, options = CASES[name]
    convert_checkpoint(DATA / name / "checkpoint", tmp_path, **options)
    model = load_model(tmp_path)
    assert (model.config.short_chunk, model.config.chunk_length) == ("last", 8)
    found, compared = model.state_dict(), 0
    for key, tensor in load_file(REFERENCE / "weights.safetensors").items():
        for ours, wanted in parts(model.config, key, tensor).items():
            weight = found[ours] + 1 if ours.endswith("norm.weight") else found[ours]
            assert torch.equal(weight, wanted), ours
            compared += 1
    assert compared == len(found)
    io = load_file(REFERENCE / "io.safetensors")
    model.config.short_chunk = "first"
    logits = model(input_ids=io["input_ids"], neighbor_ids=io["neighbor_ids"]).logits
    torch.testing.assert_close(logits, io[f"logits_{flavor}"], atol=ATOL, rtol=0)


def test_a_gpt_that_two_ranks_of_megatron_core_saved(tmp_path):
    folder = DATA / "case8_gpt_torch_dist_tp2"
    convert_checkpoint(folder / "checkpoint", tmp_path, vocab_size=60, family="gpt")
    io = load_file(folder / "io.safetensors")
    logits = load_model(tmp_path)(input_ids=io["input_ids"]).logits
    torch.testing.assert_close(logits, io["logits_mcore"][..., :60], atol=ATOL, rtol=0)
