"""Generation: what the cache keeps changes no number."""

import random

import pytest
import torch
from test_retro_model import CHUNK, NEIGHBORS, RETRIEVED, make, tokens

NEW = 9


def uncached(model, ids, mask, neighbors, neighbor_mask, steps):
    """Logits of each step, everything computed anew."""
    logits = []
    for _ in range(steps):
        given = {}
        if neighbors is not None:
            chunks = ids.shape[1] // CHUNK
            if neighbors.ndim == 4:
                if chunks:
                    last = torch.arange(chunks).clamp(max=neighbors.shape[1] - 1)
                    given = {"neighbor_ids": neighbors[:, last]}
                    given |= {} if neighbor_mask is None else {"neighbor_mask": neighbor_mask[:, last]}
            else:
                given = {"neighbor_ids": neighbors, "neighbor_mask": neighbor_mask}
        with torch.no_grad():
            logits.append(model(ids, attention_mask=mask, **given).logits[:, -1])
        ids = torch.cat([ids, logits[-1].argmax(-1, keepdim=True)], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return ids, torch.stack(logits, dim=1)


@pytest.mark.parametrize("attends", [True, False])
@pytest.mark.parametrize("key_shift", [True, False])
@pytest.mark.parametrize("layers", [[], [1, 3]])
def test_cached_equals_uncached(attends, key_shift, layers):
    """Random prompt lengths, left padding, chunk borders, neighbor masks, one set or one per chunk."""
    model = make(double=True, encoder_attends_chunk=attends, key_shift=key_shift, cross_attention_layers=layers)
    rng = random.Random(1)
    for case in range(40):
        length = rng.randint(1, 14)
        ids, mask = tokens(3, length, seed=case), torch.ones(3, length, dtype=torch.long)
        for row in range(3):
            mask[row, : rng.randrange(length)] = 0
        neighbors = neighbor_mask = None
        if layers:
            per_chunk = rng.random() < 0.5
            shape = (
                (3, rng.randint(length // CHUNK + 1, 6), NEIGHBORS, RETRIEVED)
                if per_chunk
                else (3, NEIGHBORS, RETRIEVED)
            )
            neighbors = tokens(*shape, seed=case + 1)
            if rng.random() < 0.6:
                neighbor_mask = torch.rand(shape, generator=torch.Generator().manual_seed(case)) < 0.7
        given = {} if neighbors is None else {"neighbor_ids": neighbors, "neighbor_mask": neighbor_mask}
        out = model.generate(
            ids, attention_mask=mask, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False,
            output_logits=True, return_dict_in_generate=True, **given,
        )  # fmt: skip
        model.generation_config.eos_token_id = None
        expected_ids, expected = uncached(model, ids, mask, neighbors, neighbor_mask, NEW)
        found = torch.stack(out.logits, dim=1)
        if torch.equal(out.sequences, expected_ids):
            torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-5)
        else:  # the minimum length forbids eos: compare up to where plain argmax would have chosen it
            step = (out.sequences != expected_ids).any(0).nonzero()[0].item() - length
            assert (expected_ids[:, length + step] == 1).any(), "differs before any end of sequence"
            torch.testing.assert_close(found[:, : step + 1], expected[:, : step + 1].float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attends", [True, False])
def test_batched_equals_one_by_one(attends):
    model = make(double=True, encoder_attends_chunk=attends, key_shift=True)
    lengths = [3, 7, 8, 12]
    longest = 12
    ids, mask = torch.zeros(4, longest, dtype=torch.long), torch.zeros(4, longest, dtype=torch.long)
    neighbors = tokens(4, NEIGHBORS, RETRIEVED, seed=9)
    for row, length in enumerate(lengths):
        ids[row, -length:] = tokens(length, seed=row)
        mask[row, -length:] = 1
    settings = {"max_new_tokens": NEW, "do_sample": False}
    together = model.generate(ids, attention_mask=mask, neighbor_ids=neighbors, **settings)
    for row, length in enumerate(lengths):
        start = longest - -(-length // CHUNK) * CHUNK
        alone = model.generate(
            ids[row : row + 1, start:], attention_mask=mask[row : row + 1, start:],
            neighbor_ids=neighbors[row : row + 1], **settings,
        )  # fmt: skip
        found = together[row, longest : longest + alone.shape[1] - (longest - start)]
        assert torch.equal(found, alone[0, longest - start :])


@pytest.mark.parametrize("use_cache", [True, False])
def test_beams_and_embeddings(use_cache):
    """Beam search follows its rows, with and without a cache; a prompt may be given as embeddings."""
    model = make(double=True, key_shift=True)
    ids, neighbors = tokens(2, 8), tokens(2, NEIGHBORS, RETRIEVED, seed=1)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    settings = {"max_new_tokens": NEW, "do_sample": False, "num_beams": 3, "attention_mask": mask}
    beams = model.generate(ids, neighbor_ids=neighbors, use_cache=use_cache, **settings)
    reference = model.generate(ids, neighbor_ids=neighbors, use_cache=False, **settings)
    assert torch.equal(beams, reference)
    embeds = model.get_input_embeddings()(ids)
    settings["num_beams"] = 1
    plain = model.generate(ids, neighbor_ids=neighbors, **settings)[:, 8:]
    assert torch.equal(model.generate(inputs_embeds=embeds, neighbor_ids=neighbors, **settings)[:, :], plain)


def test_sampling_is_reproducible():
    model = make()
    outs = []
    for _ in range(2):
        torch.manual_seed(3)
        outs.append(
            model.generate(tokens(2, 8), neighbor_ids=tokens(2, NEIGHBORS, RETRIEVED), do_sample=True, max_new_tokens=5)
        )
    assert torch.equal(*outs)
