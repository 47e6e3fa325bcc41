"""RETRO and GPT: who sees what, lengths, batches, saving, sizes, and errors before any compute."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from retrotune.models import RetroConfig, RetroForCausalLM
from retrotune.models.sizes import departures, model_config

CHUNK, NEIGHBORS, RETRIEVED = 4, 2, 6


def make(double=False, **changes):
    values = {
        "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48,
        "chunk_length": CHUNK, "retrieved_length": RETRIEVED, "cross_attention_layers": [1, 3],
        "max_position_embeddings": 64, "pad_token_id": 0, "eos_token_id": 1, "initializer_range": 0.3,
    }  # fmt: skip
    torch.manual_seed(0)
    model = RetroForCausalLM(RetroConfig(**(values | changes))).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:  # norms and shifts away from their neutral start
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(len(name)))
    return model.double() if double else model


def tokens(*shape, seed=0):
    return torch.randint(2, 50, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("short_chunk", ["first", "last"])
@pytest.mark.parametrize("length", [16, 13, 4, 3])
def test_a_changed_neighbor_acts_from_the_last_token_of_its_chunk(short_chunk, length):
    model = make(short_chunk=short_chunk)
    ids = tokens(1, length)
    first_border = (length - 1) % CHUNK + 1 if short_chunk == "first" else CHUNK
    chunks = -(-length // CHUNK) if short_chunk == "first" else length // CHUNK
    neighbors = tokens(1, chunks, NEIGHBORS, RETRIEVED, seed=1)
    with torch.no_grad():
        plain = model(ids, neighbor_ids=neighbors).logits
        for chunk in range(chunks):
            changed = neighbors.clone()
            changed[:, chunk] = (changed[:, chunk] + 5) % 50
            difference = (model(ids, neighbor_ids=changed).logits - plain).abs().amax((0, 2))
            assert difference.nonzero()[0].item() == first_border - 1 + chunk * CHUNK


@pytest.mark.parametrize("short_chunk", ["first", "last"])
@pytest.mark.parametrize("attends", [True, False])
@pytest.mark.parametrize("key_shift", [True, False])
def test_a_changed_token_never_acts_backwards(short_chunk, attends, key_shift):
    model = make(short_chunk=short_chunk, encoder_attends_chunk=attends, key_shift=key_shift)
    ids, neighbors = tokens(1, 14), tokens(1, NEIGHBORS, RETRIEVED, seed=1)
    with torch.no_grad():
        plain = model(ids, neighbor_ids=neighbors).logits
        for position in range(14):
            changed = ids.clone()
            changed[0, position] = (changed[0, position] + 5) % 50
            difference = (model(changed, neighbor_ids=neighbors).logits - plain).abs().amax((0, 2))
            assert (difference[:position] == 0).all()
            assert difference[position] > 0


@pytest.mark.parametrize("length", [4, 8, 16])
def test_both_conventions_agree_on_whole_chunks(length):
    ids, neighbors = tokens(2, length), tokens(2, length // CHUNK, NEIGHBORS, RETRIEVED, seed=1)
    first, last = (make(short_chunk=kind)(ids, neighbor_ids=neighbors).logits for kind in ("first", "last"))
    torch.testing.assert_close(first, last)


@pytest.mark.parametrize("attends", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_one_set_for_all_chunks_is_the_same_set_in_each(attends, masked):
    model = make(encoder_attends_chunk=attends, key_shift=True)
    ids, shared = tokens(2, 15), tokens(2, NEIGHBORS, RETRIEVED, seed=1)
    mask = tokens(2, NEIGHBORS, RETRIEVED, seed=2) % 3 > 0 if masked else None
    each = {"neighbor_ids": shared[:, None].expand(-1, 3, -1, -1)}
    if masked:
        each["neighbor_mask"] = mask[:, None].expand(-1, 3, -1, -1)
    torch.testing.assert_close(
        model(ids, neighbor_ids=shared, neighbor_mask=mask).logits, model(ids, **each).logits, atol=1e-4, rtol=1e-4
    )


def test_all_parameters_get_gradients():
    model = make(key_shift=True).train()
    out = model(tokens(2, 15), neighbor_ids=tokens(2, NEIGHBORS, RETRIEVED, seed=1), labels=tokens(2, 15))
    out.loss.backward()
    missing = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert missing == []


@pytest.mark.parametrize("family_layers", [[], [1, 3]])
@pytest.mark.parametrize("attends", [True, False])
def test_a_row_does_not_depend_on_its_batch(family_layers, attends):
    """Left padding by whole chunks, as a batch's longest prompt forces it, changes no logit of a shorter one."""
    model = make(double=True, cross_attention_layers=family_layers, encoder_attends_chunk=attends, key_shift=True)
    for own_padding in (0, 2):
        row, neighbors = tokens(1, 8, seed=3), tokens(1, NEIGHBORS, RETRIEVED, seed=1)
        mask = torch.ones(1, 8, dtype=torch.long)
        mask[:, :own_padding] = 0
        given = {"neighbor_ids": neighbors} if family_layers else {}
        alone = model(row, attention_mask=mask, **given).logits
        for more in (CHUNK, 3 * CHUNK):
            longer = torch.cat([torch.zeros(1, more, dtype=torch.long), row], dim=1)
            wider = torch.cat([torch.zeros(1, more, dtype=torch.long), mask], dim=1)
            batch = {"neighbor_ids": neighbors.expand(2, -1, -1)} if family_layers else {}
            together = model(
                torch.cat([longer, tokens(1, 8 + more, seed=4)]),
                attention_mask=torch.cat([wider, torch.ones_like(wider)]),
                **batch,
            ).logits
            torch.testing.assert_close(together[:1, more + own_padding :], alone[:, own_padding:])


def test_a_fully_masked_neighbor_set_adds_exactly_nothing():
    model = make(encoder_attends_chunk=False)
    ids, neighbors = tokens(1, 12), tokens(1, NEIGHBORS, RETRIEVED, seed=1)
    nothing = torch.zeros_like(neighbors, dtype=torch.bool)
    assert torch.equal(model(ids, neighbor_ids=neighbors, neighbor_mask=nothing).logits, model(ids).logits)


def test_the_gate_scales_and_switches_off():
    model = make()
    ids, neighbors = tokens(1, 12), tokens(1, NEIGHBORS, RETRIEVED, seed=1)
    on, half = (model(ids, neighbor_ids=neighbors, retrieval_gate=gate).logits for gate in (1.0, 0.5))
    assert torch.equal(model(ids, neighbor_ids=neighbors, retrieval_gate=0.0).logits, model(ids).logits)
    assert not torch.allclose(on, half)
    model.config.retrieval_gate = 0.5
    assert torch.equal(model(ids, neighbor_ids=neighbors).logits, half)


def test_padding_neighbors_are_attended_without_a_mask():
    """As in Megatron: padding is not retrieval off."""
    model = make()
    ids = tokens(1, 12)
    padding = torch.zeros(1, NEIGHBORS, RETRIEVED, dtype=torch.long)
    assert not torch.allclose(model(ids, neighbor_ids=padding).logits, model(ids).logits)


@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_word_embeddings": True, "key_shift": True}, {"norm": "rmsnorm", "num_key_value_heads": 2}],
)
@pytest.mark.parametrize("layers", [[], [1, 3]])
def test_saved_and_loaded_through_the_auto_classes(tmp_path, changes, layers):
    model = make(cross_attention_layers=layers, **changes)
    model.save_pretrained(tmp_path)
    assert list(tmp_path.glob("*.safetensors"))
    assert not list(tmp_path.glob("*.bin"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).cross_attention_layers == layers
    given = {"neighbor_ids": tokens(1, NEIGHBORS, RETRIEVED)} if layers else {}
    assert torch.equal(loaded(tokens(1, 9), **given).logits, model(tokens(1, 9), **given).logits)


PARAMETERS = {
    ("gpt", "xs"): (823_232_512, "823.2M"),
    ("gpt", "s"): (2_253_590_528, "2.2536B"),
    ("gpt", "m"): (8_523_358_208, "8.5234B"),
    ("gpt", "l"): (21_266_116_608, "21.266B"),
    ("gpt", "xxl"): (42_825_433_088, "42.825B"),
    ("retro", "xs"): (877_518_848, "877.5M"),
    ("retro", "s"): (2_471_477_248, "2.4715B"),
    ("retro", "m"): (9_529_049_088, "9.5290B"),
    ("retro", "l"): (23_984_222_208, "23.984B"),
    ("retro", "xxl"): (48_461_840_384, "48.462B"),
}
"""Weights, and how the paper's family is quoted (9.5291B for 9.52905B)."""


def counted_by_hand(config):
    """Weights from widths alone: attention 4 D^2, SwiGLU 3 D F, a norm 2 D, two untied embeddings V D."""
    width, norm = config.hidden_size, 2 * config.hidden_size
    attention = 4 * width**2
    block = attention + 3 * width * config.intermediate_size + 2 * norm
    crossing = len(config.cross_attention_layers) * (attention + norm)
    encoder = config.encoder_num_layers * block + attention + norm if crossing else 0
    return 2 * config.vocab_size * width + config.num_hidden_layers * block + norm + crossing + encoder


@pytest.mark.parametrize(("family", "size"), list(PARAMETERS))
def test_paper_sizes_have_the_paper_counts(family, size):
    config = model_config(family, size)
    with torch.device("meta"):
        model = RetroForCausalLM(config)
    assert all(parameter.is_meta for parameter in model.parameters())
    count, quoted = PARAMETERS[family, size]
    assert sum(parameter.numel() for parameter in model.parameters()) == counted_by_hand(config) == count
    unit = {"M": 1e6, "B": 1e9}[quoted[-1]]
    digits = len(quoted.split(".")[1]) - 1
    assert f"{count / unit:.{digits}f}{quoted[-1]}" == quoted


def test_departures_are_stated():
    assert departures(model_config("retro", "xs")) == []
    assert departures(model_config("gpt", "xs")) == []
    found = " ".join(departures(make(key_shift=True, tie_word_embeddings=True, encoder_attends_chunk=False).config))
    for what in ("key shift", "one matrix", "does not attend to the chunk", "chunks of 4 tokens", "[1, 3]"):
        assert what in found
