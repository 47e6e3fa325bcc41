"""Retrofitting: the surgery changes no logits, both arms see the same tokens, and an interrupted run goes on."""

import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neighbor_cases import write_text_cache
from transformers import LlamaConfig, LlamaForCausalLM

from retrotune.errors import ModelError, RetrievalError, TrainingError
from retrotune.models import RetroConfig, RetroForCausalLM
from retrotune.models.loading import load_model, load_tokenizer
from retrotune.models.retro.retrofit import new_modules, retrofit, retrofit_config, train_only_new
from retrotune.models.sizes import departures
from retrotune.runtime.files import write_json
from retrotune.study.config import (
    CorpusEntry,
    Emphasis,
    PassageLayout,
    Recipe,
    RetrofittingRecipe,
    SaveEvery,
    SizeEntry,
)
from retrotune.study.stages import PretrainParams, RetrofitParams, TrainTokenizerParams
from retrotune.training import planned
from retrotune.training.base import TrainingText, planned_batches
from retrotune.training.pretrain import pretrain_model
from retrotune.training.retrofit import retrofit_model
from retrotune.training.tokenizer import train_tokenizer

NAMES = ("Dana", "Kiro", "Velu", "Hask", "Omri", "Zelt")
CORPORA = {"quizzes": CorpusEntry(reader="text", path="quizzes.txt", documents="paragraph")}
SIZE = SizeEntry(num_layers=6, hidden_size=16, num_heads=2, ffn_size=32, max_length=96)
RECIPE = RetrofittingRecipe(
    neighbors_per="chunk", sequence_length=32, batch_size=3, steps=8, learning_rate=0.01,
    warmup_steps=2, no_passage_share=0.2, chunk_length=8, retrieved_length=12, encoder_layers=1,
)  # fmt: skip
DOCUMENTS = RECIPE.model_copy(update={"neighbors_per": "document", "emphasis": Emphasis(), "sequence_length": 80})
LAYOUTS = {"gpt": PassageLayout(), "retro": PassageLayout(num_neighbors=1)}


def changed(recipe=RECIPE, **changes):
    return recipe.model_copy(update=changes)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Quizzes, neighbors of their documents and chunks, and a GPT that was pretrained on them."""
    folder = tmp_path_factory.mktemp("retrofit")
    texts = [f"Question: Who rules the town of {name}? Answer: The answer is {name}." for name in NAMES]
    (folder / "quizzes.txt").write_text("\n\n".join(texts), encoding="utf-8")
    train_tokenizer(TrainTokenizerParams(corpora=CORPORA, vocab_size=300), folder, folder / "tokenizer.json")
    for file, chunks in (("document", 1), ("chunk", 4)):
        neighbors = [
            (f"quizzes/quizzes.txt#{number}", chunk, name, "T", f"{name} rules.")
            for number, name in enumerate(NAMES)
            for chunk in range(chunks)
        ]
        write_text_cache(folder / f"{file}.json", neighbors)
    recipe = Recipe(sequence_length=64, batch_size=2, steps=2)
    params = PretrainParams(family="gpt", size=SIZE, recipe=recipe, corpora=CORPORA)
    pretrain_model(params, folder, folder / "tokenizer.json", None, folder / "gpt", folder / "work")
    return folder


def train(root, out, family, recipe=RECIPE, source="gpt", cache=None, save_every=None):
    neighbors = (cache or root / f"{recipe.neighbors_per}.json") if family == "retro" else None
    layout = LAYOUTS[family]
    params = RetrofitParams(family=family, source="gpt-x", recipe=recipe, layout=layout, corpora=CORPORA)
    retrofit_model(params, root / source, root, neighbors, out, out / "work", save_every=save_every)
    return json.loads((out / "manifest.json").read_text())


def weights(folder):
    return load_model(folder).state_dict()


def test_the_same_logits_before_training_whatever_the_neighbors():
    @settings(max_examples=20)
    @given(
        st.fixed_dictionaries(
            {
                "norm": st.sampled_from(["layernorm1p", "rmsnorm"]),
                "tie_word_embeddings": st.booleans(),
                "num_key_value_heads": st.sampled_from([2, 4]),
                "attention_bias": st.booleans(),
                "key_shift": st.booleans(),
                "rotary_share": st.sampled_from([0.5, 1.0]),
            }
        ),
        st.integers(1, 30),
        st.booleans(),
        st.booleans(),
        st.integers(0, 99),
    )
    def check(architecture, length, per_chunk, padded, seed):
        torch.manual_seed(seed)
        config = RetroConfig(
            vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=6, num_attention_heads=4,
            cross_attention_layers=[], **architecture,
        )  # fmt: skip
        gpt = RetroForCausalLM(config).eval()
        retro = retrofit(gpt, retrofit_config(config.to_dict(), RECIPE, "retro", "gpt-x"), copy_encoder=seed % 2 == 0)
        ids, real = torch.randint(0, 50, (2, length)), torch.ones(2, length, dtype=torch.long)
        if padded:
            real[0, : length // 2] = 0
        shape = (2, -(-length // 8), 2, 12) if per_chunk else (2, 2, 12)
        neighbors = {"neighbor_ids": torch.randint(0, 50, shape), "neighbor_mask": torch.rand(shape) > 0.2}
        expected = gpt(ids, attention_mask=real).logits
        assert torch.equal(retro(ids, attention_mask=real, **neighbors).logits, expected)
        assert retro.model.config is retro.config
        assert (retro.lm_head.weight is retro.model.embed_tokens.weight) is config.tie_word_embeddings
        (cross,) = [layer for layer in retro.model.layers if layer.cross_attention is not None]
        torch.nn.init.normal_(cross.cross_attention.o_proj.weight)
        if length >= 8 and bool(real.all()):
            assert not torch.equal(retro(ids, **neighbors).logits, expected), "zero weights, not a dead branch"

    check()


def test_new_parts_are_random_as_in_a_new_model_and_the_rest_is_the_gpts(root):
    gpt = load_model(root / "gpt")
    config = retrofit_config(gpt.config.to_dict(), RECIPE, "retro", "gpt-x")
    torch.manual_seed(1)
    retro = retrofit(gpt, config)
    fresh = {name: value.shape for name, value in RetroForCausalLM(config).state_dict().items()}
    assert {name: value.shape for name, value in retro.state_dict().items()} == fresh
    old = gpt.state_dict()
    assert all(torch.equal(value, old[name]) for name, value in retro.state_dict().items() if name in old)
    new = {name: value for name, value in retro.state_dict().items() if name not in old}
    assert sum(map(torch.numel, new.values())) == sum(
        value.numel() for module in new_modules(retro) for value in module.parameters()
    )
    assert new.pop("model.layers.5.cross_attention.o_proj.weight").abs().max() == 0
    for name, value in new.items():
        expected = 0.0 if "norm" in name else config.initializer_range
        assert abs(float(value.std()) - expected) < 0.3 * expected + 1e-9, name
    layer = retrofit(gpt, config, copy_encoder=True).model.neighbor_encoder.layers[0]
    for name, value in layer.state_dict().items():
        if not name.startswith("cross"):
            assert torch.equal(value, old[f"model.layers.0.{name}"]), name
    assert layer.cross_attention.o_proj.weight.std() > 0
    train_only_new(retro)
    assert {name for name, value in retro.named_parameters() if not value.requires_grad} == set(old)


@pytest.mark.parametrize("recipe", [RECIPE, DOCUMENTS], ids=["chunk", "document"])
def test_both_arms_see_the_same_batches_and_only_retro_has_neighbors(root, recipe):
    batches = {}
    for family, layout in LAYOUTS.items():
        gpt = load_model(root / "gpt")
        model = retrofit(gpt, retrofit_config(gpt.config.to_dict(), recipe, family, "gpt-x"))
        cache = root / f"{recipe.neighbors_per}.json" if family == "retro" else None
        text = TrainingText(CORPORA, root, cache, layout)
        batches[family], _, _ = planned_batches(model, load_tokenizer(root / "gpt"), recipe, text, left_padded=True)
    assert len(batches["gpt"]) == len(batches["retro"]) == recipe.steps
    for plain, retrieving in zip(batches["gpt"], batches["retro"], strict=True):
        assert plain.keys() == {"input_ids", "attention_mask", "labels", "loss_weights"}
        assert all(torch.equal(value, retrieving[key]) for key, value in plain.items())
        assert retrieving.keys() - plain.keys() == {"neighbor_ids", "neighbor_mask"}
    assert any(batch["neighbor_mask"].any() for batch in batches["retro"])


@pytest.mark.parametrize("recipe", [RECIPE, DOCUMENTS], ids=["chunk", "document"])
def test_training_leaves_whole_models_that_say_what_they_are(root, tmp_path, recipe):
    found = {family: train(root, tmp_path / family, family, recipe) for family in LAYOUTS}
    assert found["gpt"]["tokens"] == found["retro"]["tokens"]
    for family, manifest in found.items():
        folder = tmp_path / family
        model = load_model(folder)
        assert manifest["num_parameters"] == manifest["num_trained_parameters"] == model.num_parameters()
        note = f"{family} is gpt-x trained further for 8 steps, all weights"
        assert manifest["departures"] == [*departures(model.config), note]
        assert manifest["source"]["retrofit_from"] == "gpt-x"
        assert load_tokenizer(folder)("Who?") == load_tokenizer(root / "gpt")("Who?")
        assert not (folder / "work").exists()
    before, after = weights(root / "gpt"), weights(tmp_path / "retro")
    moved = [name for name, value in after.items() if name not in before or not torch.equal(value, before[name])]
    assert len(moved) == len(after)
    assert after["model.layers.5.cross_attention.o_proj.weight"].abs().max() > 0


def test_training_new_parts_only_keeps_the_gpts_weights(root, tmp_path):
    manifest = train(root, tmp_path, "retro", changed(train="new", optimizer="muon"))
    before, after = weights(root / "gpt"), weights(tmp_path)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    new = {name: value for name, value in after.items() if name not in before}
    assert manifest["num_trained_parameters"] == sum(map(torch.numel, new.values()))
    assert manifest["departures"][-1] == f"{tmp_path.name} is gpt-x trained further for 8 steps, new parts"
    assert new["model.layers.5.cross_attention.o_proj.weight"].abs().max() > 0
    with pytest.raises(TrainingError, match="no new parts to train: train all, or compare with gpt-x"):
        train(root, tmp_path / "gpt", "gpt", changed(train="new"))


@pytest.mark.parametrize(("family", "only"), [("gpt", "all"), ("retro", "all"), ("retro", "new")])
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(root, tmp_path, monkeypatch, family, only):
    recipe = changed(train=only)
    whole = train(root, tmp_path / "whole", family, recipe)
    real = planned.PlannedBatches.__getitem__

    def until_the_sixth(batches, position):
        if position == 5:
            raise KeyboardInterrupt
        return real(batches, position)

    with monkeypatch.context() as interrupted:
        interrupted.setattr(planned.PlannedBatches, "__getitem__", until_the_sixth)
        with pytest.raises(KeyboardInterrupt):
            train(root, tmp_path / "cut", family, recipe, save_every=SaveEvery(steps=1))
    assert (tmp_path / "cut" / "work" / "checkpoint-4" / "progress.json").exists()
    assert not (tmp_path / "cut" / "manifest.json").exists()
    resumed = train(root, tmp_path / "cut", family, recipe)
    assert resumed["weights_sha256"] == whole["weights_sha256"]
    assert (resumed["tokens"], resumed["final_loss"]) == (whole["tokens"], whole["final_loss"])


def test_a_gpt_that_was_trained_further_can_be_retrofitted(root, tmp_path):
    train(root, tmp_path / "fitted", "gpt")
    shutil.copytree(tmp_path / "fitted", root / "fitted")
    assert train(root, tmp_path / "retro", "retro", source="fitted")["final_loss"] > 0


def without_weights(root, out, **changes):
    """A copy of the GPT's folder that has no weights, so that whoever reads them fails otherwise."""
    shutil.copytree(root / "gpt", out, ignore=shutil.ignore_patterns("*.safetensors"))
    write_json(out / "config.json", json.loads((out / "config.json").read_text()) | changes)
    return out


@pytest.mark.parametrize(
    ("changes", "recipe", "error", "message"),
    [
        ({"model_type": "llama"}, RECIPE, ModelError, "type 'llama' cannot be retrofitted: .*models.gpt-x.checkpoint"),
        ({"cross_attention_layers": [5]}, RECIPE, ModelError, "a RETRO already"),
        ({"num_hidden_layers": 4}, RECIPE, ModelError, "no cross-attention layer into 4 layers"),
        (
            {},
            changed(cross_attention_layers=(6,)),
            ModelError,
            r"cross_attention_layers \[6\]: there are layers 0 to 5",
        ),
        ({"vocab_size": 299}, RECIPE, ModelError, r"1 ids of the tokenizer have no embedding \('na' = 299\)"),
        ({}, changed(sequence_length=104), TrainingError, "sequence_length=104 exceeds the model's window"),
    ],
)
def test_an_impossible_retrofit_fails_before_weights_are_read(root, tmp_path, changes, recipe, error, message):
    with pytest.raises(error, match=message):
        train(root, tmp_path / "out", "retro", recipe, source=without_weights(root, tmp_path / "gpt", **changes))
    assert not (tmp_path / "out").exists()


def test_neighbors_of_another_tokenizers_chunks_are_refused(root, tmp_path):
    cache = write_text_cache(tmp_path / "chunk.json", [("d", 0, "p", "T", "text")], tokenizer_sha256="another")
    with pytest.raises(RetrievalError, match="another tokenizer than .*tokenizer.json cuts"):
        train(root, tmp_path / "out", "retro", cache=cache)


def test_a_model_of_transformers_own_is_named_as_such(root, tmp_path):
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=300, **shape)).save_pretrained(tmp_path / "llama")
    load_tokenizer(root / "gpt").save_pretrained(tmp_path / "llama")
    with pytest.raises(ModelError, match="'llama' cannot be retrofitted"):
        train(root, tmp_path / "out", "gpt", source=tmp_path / "llama")
