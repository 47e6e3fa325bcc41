"""Tiny random models, batches and methods for the tests of `retrotune.methods`."""

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from retrotune.models import RetroConfig, RetroForCausalLM
from retrotune.study.config import AdapterMethod, FullMethod, LoraMethod, PtuningMethod

VIRTUAL = 4
LORA = LoraMethod(kind="lora", rank=3)
ADAPTER = AdapterMethod(kind="adapter", bottleneck_dim=6, encoder_bottleneck_dim=5)
PTUNING = PtuningMethod(kind="ptuning", num_virtual_tokens=VIRTUAL, encoder_hidden_size=12)
FULL = FullMethod(kind="full")
TRAINED = [LORA, ADAPTER, PTUNING, FULL]
FAMILIES = ["llama", "gpt", "retro"]


def method_id(method: Any) -> str:
    return str(method.kind)


def tiny_model(family: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(seed)
    if family == "llama":
        config = LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=64,
            **changes,
        )
        return LlamaForCausalLM(config).eval()
    config = RetroConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        chunk_length=4,
        retrieved_length=6,
        cross_attention_layers=[1] if family == "retro" else [],
        short_chunk="last",
        **changes,
    )
    return RetroForCausalLM(config).eval()


def batch(family: str, pads: tuple[int, ...] = (3, 0), length: int = 12, seed: int = 1) -> dict[str, torch.Tensor]:
    """Left-padded rows of `length` tokens, the first attended ones placeholders (id 0); labels on the last 4."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 64, (len(pads), length), generator=generator)
    mask = torch.ones_like(ids)
    for row, pad in enumerate(pads):
        mask[row, :pad] = 0
        ids[row, : pad + VIRTUAL] = 0
    labels = ids.clone()
    labels[:, :-4] = -100
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    if family == "retro":
        inputs["neighbor_ids"] = torch.randint(3, 64, (len(pads), 2, 6), generator=generator)
        inputs["neighbor_mask"] = torch.ones_like(inputs["neighbor_ids"])
    return inputs


def prompts(family: str, **options: Any) -> dict[str, torch.Tensor]:
    """A batch without labels."""
    return {key: value for key, value in batch(family, **options).items() if key != "labels"}


def perturb(model: torch.nn.Module, seed: int = 5) -> None:
    """Move the trained weights away from their start, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def greedy(model: torch.nn.Module, inputs: dict[str, torch.Tensor], **options: Any) -> torch.Tensor:
    """Eight new tokens, none of them an end token."""
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0} | options
    return model.generate(**inputs, **options)
