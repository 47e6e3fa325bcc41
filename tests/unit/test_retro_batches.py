"""Batched generation: each row gives what it gives alone, in greedy search, beam search and sampling."""

import random

import pytest
import torch
from generation_cases import METHODS, Case, generate, random_model
from methods_cases import VIRTUAL
from test_retro_model import CHUNK, tokens
from transformers import LogitsProcessor, LogitsProcessorList

LENGTHS = [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 3]
"""Shorter than a chunk, exactly on a border, one token over it: the batch is padded to the border after the longest."""
NEW = 2 * CHUNK + 1


def batch_and_rows(rng, method, per_chunk):
    """A batch of prompts of `LENGTHS`, and each prompt alone, padded only to the border after it."""
    virtual = VIRTUAL if method == "ptuning" else 0
    longest = -(-(max(LENGTHS) + virtual) // CHUNK) * CHUNK
    sets = [len(LENGTHS), *((longest // CHUNK + 1,) if per_chunk else ()), 2, 5]
    ids, mask = torch.zeros(len(LENGTHS), longest, dtype=torch.long), torch.zeros(len(LENGTHS), longest).long()
    for row, length in enumerate(LENGTHS):
        ids[row, longest - length :] = tokens(length, seed=rng.randrange(1000))
        mask[row, longest - length - virtual :] = 1
    neighbors = {"neighbor_ids": tokens(*sets, seed=rng.randrange(1000))}
    neighbors["neighbor_mask"] = torch.rand(sets, generator=torch.Generator().manual_seed(rng.randrange(1000))) < 0.8
    alone = []
    for row, length in enumerate(LENGTHS):
        start = (longest - length - virtual) // CHUNK * CHUNK
        own = {name: value[row : row + 1] for name, value in neighbors.items()}
        if per_chunk:
            own = {name: value[:, start // CHUNK :] for name, value in own.items()}
        alone.append(Case(ids[row : row + 1, start:], mask[row : row + 1, start:], own))
    return Case(ids, mask, neighbors), alone


def new_tokens(out, case, row=0):
    """Generated tokens of a row up to its end token."""
    found = out.sequences[row, case.ids.shape[1] :].tolist()
    return found[: found.index(1) + 1] if 1 in found else found


VARIANTS = [(method, per_chunk, seed) for method in METHODS for per_chunk in (False, True) for seed in range(3)]


def prepared(method, per_chunk, seed, **changes):
    rng = random.Random(f"{method} {per_chunk} {seed}")
    shape = {"chunk_length": CHUNK, "cross_attention_layers": [0, 2]}
    model = random_model(rng, method, **shape, **changes)
    return model, *batch_and_rows(rng, method, per_chunk)


@pytest.mark.parametrize("search", [{"num_beams": 1}, {"num_beams": 3}], ids=["greedy", "beams"])
@pytest.mark.parametrize(("method", "per_chunk", "seed"), VARIANTS)
def test_batched_equals_one_by_one(method, per_chunk, seed, search):
    """With an end token, so that rows stop at different steps and others go on without them."""
    model, batch, rows = prepared(method, per_chunk, seed, eos_token_id=1)
    together = generate(model, batch.inputs(), NEW, output_scores=True, **search)
    for row, case in enumerate(rows):
        alone = generate(model, case.inputs(), NEW, output_scores=True, **search)
        assert new_tokens(together, batch, row) == new_tokens(alone, case)
        if search["num_beams"] > 1:
            torch.testing.assert_close(together.sequences_scores[row], alone.sequences_scores[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(2))
def test_beams_with_a_cache_equal_beams_without(method, seed, num_beams):
    """With one set for all chunks: without a cache, a forward pass has no sets for chunks that are generated."""
    model, batch, _ = prepared(method, False, seed)
    cached, anew = (generate(model, batch.inputs(), NEW, num_beams=num_beams, use_cache=use) for use in (True, False))
    assert torch.equal(cached.sequences, anew.sequences)


class Follow(LogitsProcessor):
    """Allows one token per step: those of a given continuation."""

    def __init__(self, wanted, start):
        self.wanted, self.start = wanted, start

    def __call__(self, input_ids, scores):
        step = input_ids.shape[1] - self.start
        return torch.full_like(scores, -torch.inf).scatter(1, self.wanted[step].expand(len(scores), 1), 0.0)


@pytest.mark.parametrize(("method", "per_chunk", "seed"), VARIANTS)
def test_sampling_draws_from_the_distributions_of_each_row_alone(method, per_chunk, seed):
    """The draws of a batch depend on all its rows; what they are drawn from does not."""
    model, batch, rows = prepared(method, per_chunk, seed)
    torch.manual_seed(seed)
    together = generate(model, batch.inputs(), NEW, do_sample=True, temperature=2.0, top_k=0)
    for row, case in enumerate(rows):
        drawn = together.sequences[row, batch.ids.shape[1] :]
        follow = LogitsProcessorList([Follow(drawn, case.ids.shape[1])])
        alone = generate(model, case.inputs(), NEW, do_sample=True, logits_processor=follow)
        assert torch.equal(alone.sequences[0, case.ids.shape[1] :], drawn)
        found, expected = (torch.stack(out.logits, 1)[i] for out, i in ((together, row), (alone, 0)))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_sampling_is_reproducible_and_several_samples_differ():
    model, batch, _ = prepared("base", True, 0)
    outs = []
    for _ in range(2):
        torch.manual_seed(3)
        outs.append(generate(model, batch.inputs(), NEW, do_sample=True, num_return_sequences=3).sequences)
    assert torch.equal(*outs)
    samples = outs[0].unflatten(0, (-1, 3))
    assert torch.equal(samples[:, 0, : batch.ids.shape[1]], batch.ids)
    assert not torch.equal(samples[:, 0], samples[:, 1])
