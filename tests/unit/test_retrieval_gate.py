"""The gate: off, scaled or on, in one forward pass, in generation, under each method, and in a study's cells."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from dataset_cases import write_split
from methods_cases import ADAPTER, FULL, LORA, PTUNING, VIRTUAL, greedy, method_id, perturb, prompts, tiny_model
from test_retro_model import NEIGHBORS, RETRIEVED, make, tokens
from tokenizer_cases import make as make_tokenizer

from retrotune.data.datasets import SPECS, Example
from retrotune.errors import ModelError
from retrotune.methods import attach, load_trained, save_trained
from retrotune.models.loading import load_model
from retrotune.prediction.generate import predict_cell
from retrotune.runtime.files import read_json, read_jsonl, write_json, write_parquet
from retrotune.scoring.score import score_cell
from retrotune.study.cells import Cell
from retrotune.study.config import PassageLayout
from retrotune.study.stages import BaseUse, PredictParams, Prompting, ScoreParams


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
    folder, tokenizer = tmp_path_factory.mktemp("retro"), make_tokenizer("gpt2")
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    shape = {"max_position_embeddings": 256, "chunk_length": 8, "retrieved_length": 16}
    model = make(vocab_size=len(tokenizer), **shape, **ids)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / "manifest.json", {"num_parameters": model.num_parameters()})
    return folder


EXAMPLES = [Example(f"q{n}", "Where was " + "the old mill " * (n % 4) + "?", ("Hull", f"answer {n}")) for n in range(9)]


def write_neighbors(path, text="Tom lives in Hull. "):
    rows = [
        {"question_id": example.question_id, "rank": rank, "passage_id": f"p{rank}", "title": "Mill",
         "text": ("Ada was born. " if rank == 0 else text) * (rank + 1), "score": 1.0 - rank}
        for example in EXAMPLES
        for rank in range(3)
    ]  # fmt: skip
    write_parquet(path, pd.DataFrame(rows))


def gated(root, folder, gate):
    """(answers, the gate that the summary names, what is stated beside the result) of a cell of a RETRO."""
    cell = Cell("retro-tiny", "zeroshot", "nq", "bm25", 0)
    examples, references = write_split(root / "test.parquet", EXAMPLES)
    prompting = Prompting(
        family="retro",
        template=SPECS["nq"].prompt_of("base"),
        layout=PassageLayout(num_contexts=1, num_neighbors=2),
        max_length=128,
        max_new_tokens=12,
    )
    params = PredictParams(prompting=prompting, base=BaseUse(retrieval_gate=gate), batch_size=4)
    out, summary = root / "predictions.jsonl", root / "predict.json"
    predict_cell(params, cell, folder, None, examples, root / "neighbors.parquet", out, summary, root / "work")
    score = ScoreParams(metrics=SPECS["nq"].metrics)
    score_cell(score, cell, out, summary, references, None, root / "scores.jsonl", root / "metrics.json")
    texts = [record["text"] for _, record in read_jsonl(out)]
    return texts, read_json(summary)["retrieval_gate"], read_json(root / "metrics.json")["model"]["departures"]


def test_the_gate_of_a_cell(tmp_path, folder):
    """Off, no answer depends on what the encoder is given; each result says with which gate it was made."""
    write_neighbors(tmp_path / "neighbors.parquet")
    plain, on, half, off = (gated(tmp_path, folder, gate) for gate in (None, 1.0, 0.5, 0.0))
    assert plain == on == (plain[0], 1.0, [])
    assert half[1:] == (0.5, ["retro-tiny scales what it reads from neighbors (retrieval_gate 0.5)"])
    assert off[1:] == (0.0, ["retro-tiny has its neighbor encoder off (retrieval_gate 0)"])
    assert len({tuple(texts) for texts, *_ in (on, half, off)}) == 3
    write_neighbors(tmp_path / "neighbors.parquet", "Something else.")  # rank 0, in the prompt, stays
    assert gated(tmp_path, folder, 0.0) == off
    assert gated(tmp_path, folder, 1.0)[0] != on[0]


def test_full_fine_tuning_keeps_the_gate_of_its_cell(tmp_path, folder):
    base = load_model(folder, retrieval_gate=0)
    save_trained(attach(base, FULL), tmp_path / "adapter")
    assert load_trained(load_model(folder), tmp_path / "adapter").config.retrieval_gate == 0.0


def test_a_gate_for_a_gpt_is_refused(tmp_path):
    make(cross_attention_layers=[]).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="retrieval_gate=0.5 was given for a retro model without cross-attention"):
        load_model(tmp_path, retrieval_gate=0.5)
