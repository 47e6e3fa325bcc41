"""Models spread over several devices. A CPU and its disk stand in for two GPUs: weights come when they are needed."""

import accelerate
import pytest
import torch
from methods_cases import ADAPTER, LORA, PTUNING, tiny_model

from retrotune.errors import ModelError
from retrotune.methods import attach, load_trained, save_trained
from retrotune.models.loading import WEIGHTS_SHARE, load_model, spread, without_storage


def weight_bytes(model):
    return sum(value.numel() * value.element_size() for value in model.parameters())


@pytest.mark.parametrize("family", ["gpt", "retro", "llama"])
def test_layers_are_never_divided_and_all_parts_find_room(family):
    with without_storage():
        model = tiny_model(family)
    size = weight_bytes(model)
    assert spread(model, {0: int(1.1 * size / WEIGHTS_SHARE), 1: size}, "m") is None
    placed = spread(model, dict.fromkeys(range(3), size), "m")
    assert set(placed.values()) > {0}
    for name, _ in model.named_parameters():
        assert [part for part in placed if name == part or name.startswith(f"{part}.")], f"{name} has no device"
    whole = [name for name, module in model.named_modules() if type(module).__name__ in model._no_split_modules]
    assert whole
    assert not [part for part in placed for name in whole if part.startswith(f"{name}.")]
    with pytest.raises(ModelError, match=r"m: 0.0 GB of weights do not fit into 80% of the 2 GPUs"):
        spread(model, {0: size // 4, 1: size // 4}, "m")


@pytest.mark.parametrize("method", [None, LORA, ADAPTER, PTUNING], ids=lambda method: method and method.kind)
@pytest.mark.parametrize("family", ["retro", "llama"])
def test_a_spread_model_answers_as_a_whole_one(tmp_path, family, method):
    base = tiny_model(family)
    base.save_pretrained(tmp_path / "base")
    generator = torch.Generator().manual_seed(3)
    inputs = {"input_ids": torch.randint(3, 64, (2, 13), generator=generator)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if family == "retro":
        inputs["neighbor_ids"] = torch.randint(3, 64, (2, 2, 6), generator=generator)
    if method is not None:
        trained = attach(base, method)
        with torch.no_grad():
            for value in trained.parameters():
                if value.requires_grad:
                    value.add_(0.3 * torch.randn(value.shape, generator=generator))
        save_trained(trained, tmp_path / "adapter")
    models = []
    for device_map in (None, {"": "cpu"}):
        model = load_model(tmp_path / "base", device_map=device_map)
        models.append(model if method is None else load_trained(model, tmp_path / "adapter"))
        if device_map is not None:
            parts = {f"model.{name}": "cpu" for name, _ in model.model.named_children()} | {"lm_head": "cpu"}
            parts["model.layers"] = "disk"
            accelerate.dispatch_model(model, parts, main_device="cpu", offload_dir=tmp_path / "disk")
    whole, parted = models
    with torch.inference_mode():
        assert torch.equal(whole(**inputs).logits, parted(**inputs).logits)
        answers = [model.generate(**inputs, max_new_tokens=9, do_sample=False, pad_token_id=0) for model in models]
    assert torch.equal(*answers)
