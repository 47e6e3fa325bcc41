"""pretrain_model and finetune_cell on a tiny text: the files they leave, what they learn, and that they repeat."""

import json

import pandas as pd
import pytest
import torch
from neighbor_cases import write_text_cache
from safetensors.torch import load_file

from retrotune.data.datasets import Example, get_spec
from retrotune.errors import TrainingError
from retrotune.methods import load_trained, num_virtual_tokens
from retrotune.models.loading import load_model, load_tokenizer
from retrotune.models.retro.layers import Mlp
from retrotune.preparing.examples import write_examples
from retrotune.runtime.files import sha256
from retrotune.study.cells import Cell
from retrotune.study.config import (
    AdapterMethod,
    CorpusEntry,
    Emphasis,
    Finetuning,
    FullMethod,
    LoraMethod,
    PassageLayout,
    PtuningMethod,
    Recipe,
    SizeEntry,
)
from retrotune.study.stages import (
    BaseUse,
    FinetuneParams,
    PredictParams,
    PretrainParams,
    Prompting,
    TrainTokenizerParams,
)
from retrotune.training.base import TrainingText, planned_batches
from retrotune.training.finetune import finetune_cell
from retrotune.training.pretrain import pretrain_model
from retrotune.training.tokenizer import train_tokenizer

NAMES = ("Dana", "Kiro", "Velu", "Hask")
CORPORA = {"quizzes": CorpusEntry(reader="text", path="quizzes.txt", documents="paragraph")}
SIZE = SizeEntry(
    num_layers=2, hidden_size=16, num_heads=2, ffn_size=32, max_length=96, chunk_length=8, retrieved_length=12,
    cross_attention_layers=(1,), encoder_layers=1,
)  # fmt: skip
RECIPE = Recipe(
    neighbors_per="document", sequence_length=80, batch_size=4, steps=30,
    optimizer="muon", learning_rate=0.02, warmup_steps=2, no_passage_share=0.1, emphasis=Emphasis(),
)  # fmt: skip
LAYOUTS = {"gpt": PassageLayout(num_contexts=1), "retro": PassageLayout(num_neighbors=1)}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Quizzes, a tokenizer, and neighbor caches for documents, chunks and questions."""
    folder = tmp_path_factory.mktemp("training")
    texts = [f"Question: Who rules town {name}? Answer: The answer is {name}." for name in NAMES]
    (folder / "quizzes.txt").write_text("\n\n".join(texts), encoding="utf-8")
    train_tokenizer(TrainTokenizerParams(corpora=CORPORA, vocab_size=300), folder, folder / "tokenizer.json")
    for file, chunk in (("documents", 0), ("chunks", 1)):
        neighbors = [(f"quizzes/quizzes.txt#{number}", chunk, name, "T", name) for number, name in enumerate(NAMES)]
        write_text_cache(folder / f"{file}.json", neighbors)
    questions = [Example(name, f"Who rules town {name}?", (name,)) for name in NAMES]
    write_examples(folder / "train.parquet", questions, with_answer=True)
    write_examples(folder / "empty.parquet", [], with_answer=True)
    found = {"question_id": NAMES, "rank": 0, "passage_id": NAMES, "title": "T", "text": NAMES, "score": 1.0}
    pd.DataFrame(found).to_parquet(folder / "neighbors.parquet")
    for family in LAYOUTS:
        pretrain(folder, family, folder / family)
    return folder


def pretraining(family, recipe=RECIPE):
    """What pretraining uses."""
    return PretrainParams(family=family, size=SIZE, recipe=recipe, layout=LAYOUTS[family], corpora=CORPORA)


def pretrain(root, family, out, recipe=RECIPE, cache="documents"):
    pretrain_model(
        pretraining(family, recipe),
        root,
        root / "tokenizer.json",
        root / f"{cache}.json",
        out,
        root / "work" / out.name,
    )
    return json.loads((out / "manifest.json").read_text())


CELL = Cell("tiny", "m", "d", "r", 7)


def prompting(family, method):
    """How a cell's questions become sequences."""
    return Prompting(
        family=family, template=get_spec("nq").prompt_of("base"), layout=LAYOUTS[family], max_length=96,
        max_new_tokens=8, virtual_tokens=num_virtual_tokens(method),
    )  # fmt: skip


def training(family, method, gate=None, precision="float32", **recipe):
    """What fine-tuning of a cell uses."""
    return FinetuneParams(
        prompting=prompting(family, method),
        base=BaseUse(retrieval_gate=gate, precision=precision),
        method=method,
        recipe=Finetuning(**{"batch_size": 4, "max_steps": 25, "warmup_steps": 2, **recipe}),
    )


def answering(family, method, batch_size=16):
    """What prediction of a cell uses."""
    return PredictParams(prompting=prompting(family, method), batch_size=batch_size)


def finetune(root, out, params, examples="train"):
    inputs = (root / params.prompting.family, root / f"{examples}.parquet", root / "neighbors.parquet")
    finetune_cell(params, CELL, *inputs, out, out / "work")
    return json.loads((out / "train.json").read_text())


@pytest.mark.parametrize("family", ["gpt", "retro"])
def test_pretraining_leaves_a_whole_model(root, family):
    manifest = json.loads((root / family / "manifest.json").read_text())
    model, tokenizer = load_model(root / family), load_tokenizer(root / family)
    assert manifest["num_parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert manifest["num_parameters"] - manifest["num_non_embedding_parameters"] == 2 * 300 * 16
    assert (manifest["steps"], manifest["num_sequences"]) == (30, 4)
    assert manifest["weights_sha256"] == {"model.safetensors": sha256(root / family / "model.safetensors")}
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert model.config.use_cache
    lines = [json.loads(line) for line in (root / family / "train_log.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"]
    assert not (root / "work" / family).exists()


def test_pretraining_repeats_and_takes_neighbors_per_chunk(root, tmp_path):
    again = pretrain(root, "retro", tmp_path / "again")
    assert again["weights_sha256"] == json.loads((root / "retro" / "manifest.json").read_text())["weights_sha256"]
    recipe = RECIPE.model_copy(update={"neighbors_per": "chunk", "optimizer": "adamw", "steps": 3})
    chunked = pretrain(root, "retro", tmp_path / "chunked", recipe, "chunks")
    assert chunked["final_loss"] > 0
    with pytest.raises(TrainingError, match="sequence_length=79 is no multiple of the chunk length 8"):
        pretrain(root, "retro", tmp_path / "bad", recipe.model_copy(update={"sequence_length": 79}), "chunks")
    with pytest.raises(TrainingError, match="sequence_length=97 exceeds"):
        pretrain(root, "gpt", tmp_path / "bad", RECIPE.model_copy(update={"sequence_length": 97}))


def test_a_retro_is_shifted_within_its_window(root, tmp_path):
    (tmp_path / "long.txt").write_text("Question: Who? Answer: The answer is Dana. " * 20)
    corpora = {"long": CorpusEntry(reader="text", path="long.txt")}
    model, recipe = load_model(root / "retro"), RECIPE.model_copy(update={"sequence_length": 96})
    text, tokenizer = TrainingText(corpora, tmp_path), load_tokenizer(root / "retro")
    for left_padded, longest in ((True, 89), (False, 96)):
        batches, sequences, skipped = planned_batches(model, tokenizer, recipe, text, left_padded)
        assert (max(sequence.length for sequence in sequences), skipped) == (longest, {"long": 0})
        widths = [batches[place]["input_ids"].shape[1] for place in range(len(batches))]
        assert longest <= max(widths) <= 96


METHODS = [
    LoraMethod(kind="lora", rank=4),
    AdapterMethod(kind="adapter", bottleneck_dim=4),
    PtuningMethod(kind="ptuning", num_virtual_tokens=3, encoder_hidden_size=16),
    FullMethod(kind="full"),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.kind)
@pytest.mark.parametrize("family", ["gpt", "retro"])
def test_finetuning_learns_saves_and_repeats(root, tmp_path, family, method):
    params = training(family, method, learning_rate=0.02)
    summary = finetune(root, tmp_path / "one", params)
    lines = [json.loads(line) for line in (tmp_path / "one" / "train_log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 26))
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert (summary["steps"], summary["tokens"], summary["truncated"]) == (25, lines[-1]["tokens"], 0)
    assert summary["num_trainable_params"] == summary["num_total_params"] or method.kind != "full"
    finetune(root, tmp_path / "two", params)
    files = sorted((tmp_path / "one" / "adapter").glob("*.safetensors"))
    assert files
    assert summary["adapter_bytes"] == sum(file.stat().st_size for file in files)
    assert [sha256(file) for file in files] == [sha256(tmp_path / "two" / "adapter" / file.name) for file in files]
    trained = load_trained(load_model(root / family), tmp_path / "one" / "adapter")
    assert not any(parameter.isnan().any() for parameter in trained.parameters())
    assert not (tmp_path / "one" / "work" / "finetune").exists()


def test_finetuning_in_micro_batches_and_bfloat16(root, tmp_path):
    params = training("retro", METHODS[0], precision="bfloat16", micro_batch_size=3, max_steps=None, epochs=5)
    summary = finetune(root, tmp_path, params)
    assert summary["steps"] == 5
    assert summary["params"] == params.recorded()
    assert load_trained(load_model(root / "retro", torch.bfloat16), tmp_path / "adapter") is not None


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.kind)
def test_activation_checkpointing_changes_no_weight(root, tmp_path, method, monkeypatch):
    calls = []
    original = Mlp.forward

    def watch(self, hidden):
        calls.append(hidden.shape)
        return original(self, hidden)

    monkeypatch.setattr(Mlp, "forward", watch)
    hashes, counts = [], []
    for checkpointing in (False, True):
        out = tmp_path / str(checkpointing)
        finetune(root, out, training("retro", method, max_steps=3, activation_checkpointing=checkpointing))
        hashes.append([sha256(file) for file in sorted((out / "adapter").glob("*.safetensors"))])
        counts.append(len(calls))
        calls.clear()
    assert hashes[0] == hashes[1]
    assert counts[1] == 2 * counts[0]


def test_finetuning_with_the_gate_closed_leaves_the_encoder_alone(root, tmp_path):
    for gate in (None, 0.0):
        finetune(root, tmp_path / str(gate), training("retro", METHODS[0], gate=gate, max_steps=3))
        weights = load_file(tmp_path / str(gate) / "adapter" / "adapter_model.safetensors")
        moved = {name: bool(value.any()) for name, value in weights.items() if "lora_B" in name}
        assert {moved[name] for name in moved if "neighbor_encoder" in name} == {gate is None}
        assert {moved[name] for name in moved if "neighbor_encoder" not in name} == {True}


def test_nothing_to_train_on_is_an_error(root, tmp_path):
    with pytest.raises(TrainingError, match=r"no training questions"):
        finetune(root, tmp_path, training("gpt", METHODS[0]), "empty")
