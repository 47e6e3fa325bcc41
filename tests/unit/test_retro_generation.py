"""Generation with the cache: token for token what decoding without it gives, and what both ends of a chunk agree on."""

import random

import pytest
import torch
from generation_cases import METHODS, ROWS, generate, neighbors_of, random_case, random_model, step_by_step, whole
from test_retro_model import CHUNK, NEIGHBORS, RETRIEVED, make, tokens

MODELS, BATCHES = 30, 5
CASES = len(METHODS) * MODELS * BATCHES * ROWS


def test_there_are_thousands_of_cases():
    assert CASES == 4800


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", range(MODELS))
def test_cached_equals_uncached(method, number):
    """Each row's tokens are the likeliest ones of a pass over the whole sequence, which has the same logits."""
    rng = random.Random(f"{method} {number}")
    model = random_model(rng, method)
    for _ in range(BATCHES):
        case = random_case(rng, model, method)
        new = model.config.chunk_length + rng.randint(1, 3)  # over one border at least
        out = generate(model, case.inputs(), new)
        length = case.ids.shape[1]
        assert out.sequences.shape == (ROWS, length + new)
        assert torch.equal(out.sequences[:, :length], case.ids)
        expected = whole(model, case, out.sequences[:, :-1])[:, length - 1 :].float()
        torch.testing.assert_close(torch.stack(out.logits, dim=1), expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(out.sequences[:, length:], expected.argmax(-1))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", range(3))
def test_cached_equals_computing_each_step_anew(method, number):
    """What the test above takes for granted: later tokens and chunks change nothing that was computed before."""
    rng = random.Random(f"anew {method} {number}")
    model = random_model(rng, method)
    for _ in range(2):
        case = random_case(rng, model, method)
        new = model.config.chunk_length + 2
        out = generate(model, case.inputs(), new)
        ids, logits = step_by_step(model, case, new)
        assert torch.equal(out.sequences, ids)
        torch.testing.assert_close(torch.stack(out.logits, dim=1), logits.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("number", range(10))
def test_pieces_of_any_length_equal_the_whole(number, padded):
    """The cache used by hand, as speculative or streaming decoders do: a piece may finish no chunk or several."""
    rng = random.Random(f"pieces {number}")
    model = random_model(rng)
    for _ in range(4):
        case = random_case(rng, model, "base")
        ids = torch.cat([case.ids, tokens(ROWS, 12, seed=number)], dim=1)
        if not padded:
            case.mask = torch.ones_like(case.mask)
        mask = torch.nn.functional.pad(case.mask, (0, 12), value=1)
        cache, past, found = None, 0, []
        while past < ids.shape[1]:
            end = min(past + rng.randint(1, 9), ids.shape[1] if past else case.ids.shape[1])
            with torch.no_grad():
                out = model(
                    ids[:, past:end], attention_mask=mask[:, :end] if padded else None,
                    past_key_values=cache, use_cache=True, **case.neighbors,
                )  # fmt: skip
            cache, past = out.past_key_values, end
            found.append(out.logits)
        expected = whole(model, case, ids)
        torch.testing.assert_close(torch.cat(found, dim=1)[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attends", [True, False])
@pytest.mark.parametrize("number", range(6))
def test_short_chunk_first_and_last_agree_on_whole_chunks(number, attends):
    """With one set per chunk or for all, masked neighbors, and left padding; on other lengths they do not."""
    shape = {"encoder_attends_chunk": attends, "chunk_length": CHUNK, "cross_attention_layers": [0, 2]}
    first, last = (random_model(random.Random(number), short_chunk=end, **shape) for end in ("first", "last"))
    rng = random.Random(f"ends {number}")
    for _ in range(10):
        case = random_case(rng, last, "base")
        for length in (CHUNK * rng.randint(1, 4), CHUNK * rng.randint(1, 4) + rng.randint(1, CHUNK - 1)):
            ids, mask = tokens(ROWS, length, seed=number), torch.ones(ROWS, length, dtype=torch.long)
            for row in range(ROWS):
                mask[row, : rng.randrange(length)] = 0
            given = neighbors_of(case, CHUNK, CHUNK * -(-length // CHUNK))
            with torch.no_grad():
                one, other = (model(ids, attention_mask=mask, **given).logits for model in (first, last))
            difference = (one - other)[mask.bool()].abs().max()
            assert (difference < 1e-6) == (length % CHUNK == 0)


@pytest.mark.parametrize("length", [CHUNK - 1, CHUNK, CHUNK + 1])
def test_the_last_of_few_sets_serves_all_later_chunks(length):
    model = make(double=True, eos_token_id=None)
    ids, sets = tokens(2, length), tokens(2, 1, NEIGHBORS, RETRIEVED, seed=1)
    few = generate(model, {"input_ids": ids, "neighbor_ids": sets}, 3 * CHUNK)
    many = generate(model, {"input_ids": ids, "neighbor_ids": sets.expand(-1, 6, -1, -1)}, 3 * CHUNK)
    one = generate(model, {"input_ids": ids, "neighbor_ids": sets[:, 0]}, 3 * CHUNK)
    anew = generate(model, {"input_ids": ids, "neighbor_ids": sets, "use_cache": False}, 3 * CHUNK)
    assert torch.equal(few.sequences, many.sequences)
    assert torch.equal(few.sequences, anew.sequences)
    assert torch.equal(few.sequences, one.sequences)
    changed = torch.cat([sets, (sets + 5) % 50], dim=1)  # another set from the second chunk on
    other = generate(model, {"input_ids": ids, "neighbor_ids": changed}, 3 * CHUNK)
    border = 2 * CHUNK - length  # new tokens before the one that the second chunk's last token predicts
    for step in range(border):
        assert torch.equal(few.logits[step], other.logits[step])
    assert not torch.equal(few.logits[border], other.logits[border])


def test_a_prompt_as_embeddings_gives_the_same_tokens():
    model = make(double=True, key_shift=True)
    ids, neighbors = tokens(2, 8), tokens(2, NEIGHBORS, RETRIEVED, seed=1)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    rest = {"attention_mask": mask, "neighbor_ids": neighbors}
    expected = generate(model, {"input_ids": ids, **rest}, 9).sequences[:, 8:]
    embeds = model.get_input_embeddings()(ids)
    assert torch.equal(generate(model, {"inputs_embeds": embeds, **rest}, 9).sequences, expected)
