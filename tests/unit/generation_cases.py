"""Random models, methods and prompts for the tests of generation, and decoding without a cache to compare with."""

import random
from dataclasses import dataclass
from typing import Any

import torch
from methods_cases import ADAPTER, LORA, PTUNING, VIRTUAL, perturb
from test_retro_model import make, tokens

from retrotune.methods import attach

METHODS = {"base": None, "lora": LORA, "adapter": ADAPTER, "ptuning": PTUNING}
ROWS = 8


@dataclass
class Case:
    """Left-padded prompts [B, T] and what their neighbors are; `neighbors` is empty for a GPT."""

    ids: torch.Tensor
    mask: torch.Tensor
    neighbors: dict[str, torch.Tensor]

    def inputs(self) -> dict[str, torch.Tensor]:
        """What generation is given."""
        return {"input_ids": self.ids, "attention_mask": self.mask, **self.neighbors}


def random_model(rng: random.Random, method: str = "base", **changes: Any) -> torch.nn.Module:
    """A RETRO (one in ten: a GPT) of a random variant in double precision, its method trained away from zero."""
    values: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 3,
        "cross_attention_layers": rng.choice([[0], [1], [0, 2], [1, 2], [0, 1, 2]]) if rng.random() < 0.9 else [],
        "chunk_length": rng.choice([1, 2, 3, 4, 5]),
        "num_key_value_heads": rng.choice([1, 2, 4]),
        "key_shift": rng.random() < 0.5,
        "encoder_attends_chunk": rng.random() < 0.6,
        "encoder_residual": rng.choice(["pre_norm", "normed"]),
        "encoder_num_layers": rng.choice([1, 2]),
        "tie_word_embeddings": rng.random() < 0.3,
        "attention_bias": rng.random() < 0.3,
        "norm": rng.choice(["layernorm1p", "layernorm1p", "rmsnorm"]),
        "rotary_share": rng.choice([0.5, 1.0]),
        "final_norm": rng.random() < 0.8,
        "retrieval_gate": rng.choice([1.0, 1.0, 0.5]),
        "eos_token_id": None,
    }
    model = make(**(values | changes))
    if METHODS[method] is not None:
        model = attach(model, METHODS[method])
        perturb(model, seed=rng.randrange(1000))
    return model.double().eval()


def random_case(rng: random.Random, model: torch.nn.Module, method: str, rows: int = ROWS) -> Case:
    """Prompts with left paddings of their own: shorter than a chunk, on a border, or over several chunks."""
    chunk, virtual = model.config.chunk_length, VIRTUAL if method == "ptuning" else 0
    length = virtual + rng.choice([rng.randint(1, 11), chunk, 2 * chunk, chunk - 1 or 1, chunk + 1])
    seed = rng.randrange(10**6)
    ids, mask = tokens(rows, length, seed=seed), torch.ones(rows, length, dtype=torch.long)
    for row in range(rows):
        padding = rng.choice([0, rng.randrange(length - virtual)])
        mask[row, :padding] = 0
        ids[row, : padding + virtual] = 0
    neighbors = {}
    if model.config.cross_attention_layers:
        shape = [rows, rng.randint(1, 3), rng.randint(1, 6)]
        if rng.random() < 0.5:  # one set per chunk: for the prompt's chunks at least, the last one serves all others
            shape.insert(1, rng.randint(max(length // chunk, 1), length // chunk + 3))
        neighbors["neighbor_ids"] = tokens(*shape, seed=seed + 1)
        if rng.random() < 0.6:
            draws = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
            hidden = torch.rand(shape[:-1], generator=torch.Generator().manual_seed(seed + 2)) < 0.2
            neighbors["neighbor_mask"] = (draws < 0.7) & ~hidden[..., None]
    return Case(ids, mask, neighbors)


def neighbors_of(case: Case, chunk: int, length: int) -> dict[str, torch.Tensor]:
    """Neighbors of `length` tokens in one forward pass: one set for all chunks, or one for each finished chunk."""
    if not case.neighbors or case.neighbors["neighbor_ids"].ndim == 3:
        return case.neighbors
    chunks = length // chunk
    if chunks == 0:
        return {}
    sets = torch.arange(chunks).clamp(max=case.neighbors["neighbor_ids"].shape[1] - 1)
    return {name: value[:, sets] for name, value in case.neighbors.items()}


@torch.no_grad()
def whole(model: torch.nn.Module, case: Case, ids: torch.Tensor) -> torch.Tensor:
    """Logits [B, T, V] of sequences that begin with the prompts, computed in one pass without a cache."""
    mask = torch.nn.functional.pad(case.mask, (0, ids.shape[1] - case.mask.shape[1]), value=1)
    given = neighbors_of(case, model.config.chunk_length, ids.shape[1])
    return model(input_ids=ids, attention_mask=mask, use_cache=False, **given).logits


def step_by_step(model: torch.nn.Module, case: Case, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(sequences [B, T + steps], logits [B, steps, V]) of greedy decoding, everything computed anew in each step."""
    ids, logits = case.ids, []
    for _ in range(steps):
        logits.append(whole(model, case, ids)[:, -1])
        ids = torch.cat([ids, logits[-1].argmax(-1, keepdim=True)], dim=1)
    return ids, torch.stack(logits, dim=1)


def generate(model: torch.nn.Module, inputs: dict[str, torch.Tensor], new: int, **settings: Any) -> Any:
    """transformers' output of `generate` with the logits of each step, greedy unless `settings` say otherwise."""
    settings = {"do_sample": False, "max_new_tokens": new, "output_logits": True} | settings
    return model.generate(**inputs, return_dict_in_generate=True, **settings)
