"""P-tuning in the authors' order [left padding][virtual][prompt], against sequences of embeddings built by hand."""

import pytest
import torch
from methods_cases import FAMILIES, PTUNING, VIRTUAL, greedy, perturb, prompts, tiny_model
from peft import PeftModel, get_peft_model

from retrotune.errors import MethodError
from retrotune.methods import attach
from retrotune.methods.prompt_encoder import PtuningConfig
from retrotune.study.config import PtuningMethod


def ptuned(family):
    model = attach(tiny_model(family), PTUNING).eval()
    perturb(model)
    return model


def table_of(model):
    with torch.no_grad():
        return model.get_base_model().get_input_embeddings().virtual_tokens("default")


def by_hand(model, family, inputs, pads):
    """The base model's inputs with the embeddings put together row by row."""
    embeds = tiny_model(family).get_input_embeddings()(inputs["input_ids"]).detach().clone()
    positions = torch.zeros_like(inputs["input_ids"])
    for row, pad in enumerate(pads):
        embeds[row, pad : pad + VIRTUAL] = table_of(model)
        positions[row, pad:] = torch.arange(embeds.shape[1] - pad)
    rest = {key: value for key, value in inputs.items() if key != "input_ids"}
    return {**rest, "inputs_embeds": embeds, "position_ids": positions}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pads", [(0, 0), (3, 0), (1, 5)])
def test_logits_equal_a_hand_built_sequence(family, pads):
    model, inputs = ptuned(family), prompts(family, pads=pads)
    expected = tiny_model(family)(**by_hand(model, family, inputs, pads)).logits
    real = inputs["attention_mask"].bool()
    assert torch.equal(model(**inputs).logits[real], expected[real])
    assert (tiny_model(family)(**inputs).logits[real] - expected[real]).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_equals_a_hand_built_loop(family):
    pads = (3, 0)
    model, inputs = ptuned(family), prompts(family, pads=pads)
    generated = greedy(model, inputs)
    base, ids = tiny_model(family), inputs["input_ids"]
    for _ in range(8):
        step = by_hand(model, family, inputs | {"input_ids": ids}, pads)
        step["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones(2, ids.shape[1] - 12).long()], 1)
        ids = torch.cat([ids, base(**step).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(generated, ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_does_not_depend_on_its_batch(family):
    """Left padding in steps of the chunk length: borders, and thus RETRO's neighbors, stay where they are."""
    model, inputs = ptuned(family), prompts(family, pads=(4, 0))
    together = greedy(model, inputs)
    alone = {key: value[:1] for key, value in inputs.items()}
    alone |= {key: alone[key][:, 4:] for key in ("input_ids", "attention_mask")}
    assert torch.equal(greedy(model, alone)[:, -8:], together[:1, -8:])
    padded, bare = model(**inputs).logits[:1, 4:], model(**alone).logits
    torch.testing.assert_close(padded, bare, rtol=1e-4, atol=1e-5)


def test_right_padding_and_labels_stay_in_place():
    model, inputs = ptuned("llama"), prompts("llama")
    longer = {key: torch.nn.functional.pad(value, (0, 3)) for key, value in inputs.items()}
    logits = model(**longer, labels=torch.full((2, 15), -100).index_fill(1, torch.tensor([11]), 7)).logits
    real = inputs["attention_mask"].bool()
    assert logits.shape[1] == 15
    torch.testing.assert_close(logits[:, :12][real], model(**inputs).logits[real])


def test_mask_stays_integer_and_positions_come_from_it():
    model, seen = ptuned("llama"), {}
    model.get_base_model().model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    inputs = prompts("llama", pads=(3, 0))
    model(**inputs)
    assert torch.equal(seen["attention_mask"], inputs["attention_mask"])
    assert not seen["attention_mask"].is_floating_point()
    assert seen["position_ids"][0].tolist() == [0, 0, 0, *range(9)]
    assert seen["inputs_embeds"].shape == (2, 12, 32)


def test_without_a_mask_all_tokens_are_attended():
    model, inputs = ptuned("llama"), prompts("llama", pads=(0, 0))
    assert torch.equal(model(input_ids=inputs["input_ids"]).logits, model(**inputs).logits)
    assert torch.equal(model(inputs["input_ids"], inputs["attention_mask"]).logits, model(**inputs).logits)


def test_disabled_it_is_the_base_model():
    model, inputs = ptuned("llama"), prompts("llama")
    base = tiny_model("llama")
    with model.disable_adapter():
        assert torch.equal(model(**inputs).logits, base(**inputs).logits)
        assert torch.equal(greedy(model, inputs), greedy(base, inputs))
    assert not torch.equal(model(**inputs).logits, base(**inputs).logits)
    assert not model.get_base_model()._forward_pre_hooks


def test_peft_entry_points_and_continued_training(tmp_path):
    config = PtuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL, encoder_hidden_size=8)
    model = get_peft_model(tiny_model("llama"), config).eval()
    perturb(model)
    model.save_pretrained(tmp_path)
    inputs = prompts("llama")
    loaded = PeftModel.from_pretrained(tiny_model("llama"), tmp_path, adapter_name="other", is_trainable=True).eval()
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    trained = {name.replace(".other", ".default") for name, p in loaded.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any(p.requires_grad for p in PeftModel.from_pretrained(tiny_model("llama"), tmp_path).parameters())


def test_two_prompts_in_one_model():
    model, inputs = ptuned("llama"), prompts("llama")
    first = model(**inputs).logits
    model.add_adapter("second", PtuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2, encoder_hidden_size=8))
    assert torch.equal(model(**inputs).logits, first)
    model.set_adapter("second")
    assert not torch.equal(model(**inputs).logits, first)
    model.set_adapter("default")
    assert torch.equal(model(**inputs).logits, first)


def test_tied_embeddings_stay_tied():
    model = attach(tiny_model("llama", tie_word_embeddings=True), PTUNING)
    base = model.get_base_model()
    assert base.lm_head.weight is base.get_input_embeddings().weight
    assert not base.lm_head.weight.requires_grad


def test_learns():
    model = attach(tiny_model("llama"), PTUNING)
    inputs = prompts("llama")
    labels = inputs["input_ids"].clone()
    labels[:, :-4] = -100
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(30):
        loss = model(**inputs, labels=labels).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.05


def test_bad_batches_are_errors():
    model = ptuned("llama")
    with pytest.raises(MethodError, match="a row attends to 2 tokens but 4 placeholders"):
        model(**prompts("llama", pads=(10, 0)))
    with pytest.raises(MethodError, match="66 tokens, 4 virtual ones among them, exceed the model's window of 64"):
        model(**prompts("llama", length=66))
    with pytest.raises(MethodError, match="two-dimensional"):
        model(input_ids=prompts("llama")["input_ids"], attention_mask=torch.ones(2, 1, 12, 12))
    with pytest.raises(MethodError, match="num_virtual_tokens=64 leaves no room in the model's window of 64"):
        attach(tiny_model("llama"), PtuningMethod(kind="ptuning", num_virtual_tokens=64))
