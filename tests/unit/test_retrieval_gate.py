"""The gate: off, scaled or on, in one forward pass, in generation, under each method, and in a study's cells."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from methods_cases import ADAPTER, FULL, LORA, PTUNING, VIRTUAL, greedy, method_id, perturb, prompts, tiny_model
from test_generate import Study, save_model
from test_retro_model import NEIGHBORS, RETRIEVED, make, tokens

from retrotune.errors import ModelError
from retrotune.files import read_json, write_parquet
from retrotune.methods import attach, load_trained, save_trained
from retrotune.models.loading import load_model


@pytest.mark.parametrize("search", [{"num_beams": 1}, {"num_beams": 3}])
@pytest.mark.parametrize("attends", [True, False])
@pytest.mark.parametrize("use_cache", [True, False])
def test_closed_it_is_the_plain_decoder_in_generation_too(search, attends, use_cache):
    model = make(double=True, encoder_attends_chunk=attends, eos_token_id=None)
    ids, neighbors = tokens(2, 7), tokens(2, NEIGHBORS, RETRIEVED, seed=1)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    settings = {"attention_mask": mask, "max_new_tokens": 9, "do_sample": False, "use_cache": use_cache, **search}
    plain = model.generate(ids, **settings)
    opened = model.generate(ids, neighbor_ids=neighbors, **settings)
    assert not torch.equal(opened, plain)
    assert torch.equal(model.generate(ids, neighbor_ids=neighbors, retrieval_gate=0.0, **settings), plain)
    model.config.retrieval_gate = 0.0
    assert torch.equal(model.generate(ids, neighbor_ids=neighbors, **settings), plain)
    assert torch.equal(model.generate(ids, neighbor_ids=neighbors, retrieval_gate=1.0, **settings), opened)


@pytest.mark.parametrize("gate", [0.0, 0.5, 1.0, 2.0])
def test_logits_follow_a_scalar_gate_smoothly(gate):
    """Half the step from a gate changes the logits by half as much: no jump anywhere, also not where it opens."""
    model, ids = make(double=True), tokens(1, 12)
    neighbors = tokens(1, NEIGHBORS, RETRIEVED, seed=1)

    def logits(value):
        return model(ids, neighbor_ids=neighbors, retrieval_gate=value).logits

    with torch.no_grad():
        small, smaller = ((logits(gate + step) - logits(gate)).norm() for step in (1e-5, 5e-6))
    assert small > 0
    assert small / smaller == pytest.approx(2, rel=1e-2)


def test_a_gate_is_kept_with_the_model(tmp_path):
    make(retrieval_gate=0.25).save_pretrained(tmp_path)
    assert load_model(tmp_path).config.retrieval_gate == 0.25
    assert load_model(tmp_path, retrieval_gate=0).config.retrieval_gate == 0.0


@pytest.mark.parametrize("method", [LORA, ADAPTER, PTUNING], ids=method_id)
def test_methods_keep_the_gate(method):
    inputs = prompts("retro")
    if method is not PTUNING:
        inputs["input_ids"][inputs["input_ids"] == 0] = 5
    plain_inputs = {key: value for key, value in inputs.items() if not key.startswith("neighbor")}

    def tuned(gate):
        model = attach(tiny_model("retro", initializer_range=0.3, retrieval_gate=gate), method).eval()
        perturb(model)
        return model

    opened, closed = tuned(1.0), tuned(0.0)
    plain = greedy(closed, plain_inputs)
    assert torch.equal(greedy(closed, inputs), plain)
    assert torch.equal(greedy(opened, inputs, retrieval_gate=0.0), plain)
    on, off = greedy(opened, inputs), closed(**inputs).logits
    assert torch.equal(greedy(closed, inputs, retrieval_gate=1.0), on)
    assert torch.equal(off, opened(**inputs, retrieval_gate=0.0).logits)
    assert not torch.equal(off[:, VIRTUAL:], opened(**inputs).logits[:, VIRTUAL:])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    model = make(vocab_size=320, max_position_embeddings=256, chunk_length=8, retrieved_length=16)
    return save_model(model, tmp_path_factory.mktemp("retro"))


def gated(study, gate, adapter=None, method="zeroshot"):
    """(answers, the gate that the summary names, what is stated beside the result)."""
    params = study.cell(method, retrieval_gate=gate)
    texts = [record["text"] for record in study.predict(params, adapter)]
    return texts, read_json(study.summary)["retrieval_gate"], study.score()["model"]["departures"]


def test_the_gate_of_a_cell(tmp_path, folder):
    """Off, no answer depends on what the encoder is given; each result says with which gate it was made."""
    study = Study(tmp_path, folder, "retro")
    plain, on, half, off = (gated(study, gate) for gate in (None, 1.0, 0.5, 0.0))
    assert plain == on == (plain[0], 1.0, [])
    assert half[1:] == (0.5, ["retro-tiny scales what it reads from neighbors (retrieval_gate 0.5)"])
    assert off[1:] == (0.0, ["retro-tiny has its neighbor encoder off (retrieval_gate 0)"])
    assert len({tuple(texts) for texts, *_ in (on, half, off)}) == 3
    neighbors = pd.read_parquet(study.neighbors)
    neighbors.loc[neighbors["rank"] > 0, "text"] = "Something else."  # rank 0 stands in the prompt
    write_parquet(study.neighbors, neighbors)
    assert gated(study, 0.0) == off
    assert gated(study, 1.0)[0] != on[0]


def test_full_fine_tuning_keeps_the_gate_of_its_cell(tmp_path, folder):
    save_trained(attach(load_model(folder, retrieval_gate=0), FULL), tmp_path / "adapter")
    assert load_trained(load_model(folder), tmp_path / "adapter").config.retrieval_gate == 0.0


def test_a_gate_for_a_gpt_is_refused(tmp_path):
    make(cross_attention_layers=[]).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="retrieval_gate=0.5 was given for a retro model without cross-attention"):
        load_model(tmp_path, retrieval_gate=0.5)
