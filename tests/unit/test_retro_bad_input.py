"""Bad input to RETRO: each is an error that names the value and the remedy, before anything is computed."""

import pytest
import torch
from test_retro_model import NEIGHBORS, RETRIEVED, make, tokens
from transformers import AutoConfig, DynamicCache

from retrotune.errors import ModelError
from retrotune.models import RetroConfig
from retrotune.models.sizes import SIZES, custom_config, model_config
from retrotune.study.config import SizeEntry, read_config

LENGTH, WINDOW = 12, 64


@pytest.fixture
def refuses():
    """Calls a model, and asserts the error and that no part of it has run."""

    def check(message, call, error=ModelError, **changes):
        model = make(**changes)
        ran = []
        for name, module in model.named_modules():
            if next(module.children(), None) is None:
                module.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
        with pytest.raises(error, match=message):
            call(model)
        assert ran == []

    return check


def forward(shape, **given):
    return lambda model: model(tokens(1, LENGTH), neighbor_ids=tokens(*shape), **given)


def generate(shape=None, length=LENGTH, new=6, **given):
    if shape is not None:
        given["neighbor_ids"] = tokens(*shape)
    return lambda model: model.generate(tokens(1, length), max_new_tokens=new, do_sample=False, **given)


@pytest.mark.parametrize("short_chunk", ["first", "last"])
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((RETRIEVED,), r"neighbor_ids has shape \(6,\): expected \[1, K, R\] .* or \[1, chunks, K, R\]"),
        ((NEIGHBORS, RETRIEVED), r"neighbor_ids has shape \(2, 6\)"),
        ((1, 1, 3, NEIGHBORS, RETRIEVED), r"neighbor_ids has shape \(1, 1, 3, 2, 6\)"),
        ((2, NEIGHBORS, RETRIEVED), r"neighbor_ids has shape \(2, 2, 6\): expected \[1, K, R\]"),
        ((2, 3, NEIGHBORS, RETRIEVED), r"neighbor_ids has shape \(2, 3, 2, 6\)"),
        ((1, 5, NEIGHBORS, RETRIEVED), "holds 5 chunks, but 12 tokens are 3 chunks of 4"),
        ((1, 2, NEIGHBORS, RETRIEVED), "holds 2 chunks, but 12 tokens are 3 chunks of 4"),
        ((1, 0, NEIGHBORS, RETRIEVED), "holds 0 chunks, but 12 tokens are 3 chunks of 4"),
    ],
)
def test_neighbors_of_a_wrong_rank_batch_or_chunk_count(refuses, shape, message, short_chunk):
    refuses(message, forward(shape), short_chunk=short_chunk)


@pytest.mark.parametrize("shape", [(NEIGHBORS, RETRIEVED), (2, NEIGHBORS, RETRIEVED), (1, 1, 3, NEIGHBORS, RETRIEVED)])
@pytest.mark.parametrize("use_cache", [True, False])
def test_neighbors_of_a_wrong_shape_in_generation(refuses, shape, use_cache):
    refuses("neighbor_ids has shape", generate(shape, use_cache=use_cache))


@pytest.mark.parametrize("chunks", [0, 2])
def test_fewer_sets_than_the_prompt_has_chunks(refuses, chunks):
    refuses(f"holds {chunks} chunks, but 12 tokens are 3 chunks of 4", generate((1, chunks, NEIGHBORS, RETRIEVED)))


@pytest.mark.parametrize("shape", [(1, 0, RETRIEVED), (1, NEIGHBORS, 0), (1, 3, 0, RETRIEVED)])
def test_empty_neighbor_sets(refuses, shape):
    refuses("neighbor_ids has shape", forward(shape))


def test_a_mask_of_another_shape(refuses):
    mask = torch.ones(1, NEIGHBORS, 1)
    refuses("neighbor_mask has shape", forward((1, NEIGHBORS, RETRIEVED), neighbor_mask=mask))


@pytest.mark.parametrize("width", [11, 13])
def test_an_attention_mask_of_another_width(refuses, width):
    message = rf"attention_mask has shape \(1, {width}\): expected \(1, 12\)"
    refuses(message, forward((1, NEIGHBORS, RETRIEVED), attention_mask=torch.ones(1, width)))


def test_neighbors_for_a_gpt(refuses):
    for call in (forward, generate):
        refuses("neighbor_ids were given to a GPT", call((1, NEIGHBORS, RETRIEVED)), cross_attention_layers=[])


def test_moving_borders_with_a_cache(refuses):
    refuses("needs short_chunk='last'", generate((1, NEIGHBORS, RETRIEVED)), short_chunk="first")


@pytest.mark.parametrize("layers", [[], [1, 3]])
@pytest.mark.parametrize("use_cache", [True, False])
def test_a_prompt_longer_than_the_window(refuses, layers, use_cache):
    message = "65 tokens do not fit the window of 64"
    refuses(message, lambda model: model(tokens(1, WINDOW + 1)), cross_attention_layers=layers)
    refuses(message, generate(length=WINDOW + 1, use_cache=use_cache), cross_attention_layers=layers)


@pytest.mark.parametrize("use_cache", [True, False])
def test_the_window_may_be_filled_to_its_last_token(use_cache):
    out = generate((1, NEIGHBORS, RETRIEVED), WINDOW - 4, 4, use_cache=use_cache)(make(eos_token_id=None))
    assert out.shape == (1, WINDOW)


def test_generation_over_the_window_is_an_error():
    with pytest.raises(ModelError, match="tokens do not fit the window of 64"):
        generate(length=WINDOW - 3, new=9)(make(eos_token_id=None))


def test_generation_over_the_window_is_refused_at_once(refuses):
    refuses("window of 64", generate(length=WINDOW - 3, new=9), eos_token_id=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk_length": 0}, "chunk_length=0: must be at least 1"),
        ({"chunk_length": -4}, "chunk_length=-4: must be at least 1"),
        ({"retrieved_length": 0}, "retrieved_length=0: must be at least 1"),
        ({"encoder_num_layers": 0}, "encoder_num_layers=0: must be at least 1"),
        (
            {"num_hidden_layers": 4, "cross_attention_layers": None},
            "num_hidden_layers=4: .* list cross_attention_layers",
        ),
        ({"num_hidden_layers": 5, "cross_attention_layers": None}, "num_hidden_layers=5: .* no cross-attention layer"),
        ({"cross_attention_layers": [4]}, r"cross_attention_layers \[4\]: there are layers 0 to 3 only"),
        ({"cross_attention_layers": [-1]}, r"cross_attention_layers \[-1\]"),
        ({"short_chunk": "middle"}, "short_chunk='middle': known are first, last"),
        ({"encoder_residual": "post"}, "encoder_residual='post': known are pre_norm, normed"),
        ({"num_key_value_heads": 3}, "num_attention_heads=4 is no multiple of num_key_value_heads=3"),
        ({"retrieval_gate": "on"}, "retrieval_gate"),
    ],
)
def test_bad_configurations(changes, message):
    with pytest.raises(Exception, match=message):
        make(**changes)


def test_a_bad_configuration_in_a_folder(tmp_path):
    path = tmp_path / "config.json"
    RetroConfig(num_hidden_layers=6).save_pretrained(tmp_path)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"chunk_length": 64', '"chunk_length": 0'), encoding="utf-8")
    with pytest.raises(Exception, match="chunk_length=0: must be at least 1"):
        AutoConfig.from_pretrained(tmp_path)
    path.write_text(text.replace('"retrieval_gate": 1.0', '"retrieval_gate": 0'), encoding="utf-8")
    assert AutoConfig.from_pretrained(tmp_path).retrieval_gate == 0, "a whole number is a number"


def test_five_layers_have_no_cross_layer_and_six_have_one():
    shape = {"hidden_size": 32, "num_heads": 4, "ffn_size": 48}
    with pytest.raises(ModelError, match="5 layers: .* list cross_attention_layers in the size"):
        custom_config("retro", SizeEntry(num_layers=5, **shape))
    assert custom_config("retro", SizeEntry(num_layers=6, **shape)).cross_attention_layers == [5]
    assert custom_config("gpt", SizeEntry(num_layers=5, **shape)).cross_attention_layers == []
    with pytest.raises(ValueError, match="chunk_length"):
        SizeEntry(num_layers=6, chunk_length=0, **shape)


def test_unknown_sizes_and_families():
    with pytest.raises(ModelError, match="unknown size 'xss'; did you mean 'xs'"):
        model_config("gpt", "xss")
    with pytest.raises(ModelError, match="unknown family 'rag'; known: gpt, retro"):
        model_config("rag", "xs")


def test_custom_sizes(repository):
    size = next(iter(read_config(repository / "config" / "config.yaml").sizes.values()))
    assert custom_config("gpt", size, vocab_size=99).cross_attention_layers == []
    assert custom_config("retro", size, vocab_size=99).vocab_size == 99
    assert set(SIZES) == {"xs", "s", "m", "l", "xxl"}


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_foreign_cache_with_tokens_in_it(refuses, use_cache):
    cache = DynamicCache()
    cache.update(torch.zeros(1, 1, 3, 8), torch.zeros(1, 1, 3, 8), 0)
    refuses(
        "past_key_values is a DynamicCache that holds 3 tokens",
        lambda model: model(tokens(1, LENGTH), past_key_values=cache, use_cache=use_cache),
    )


def test_an_empty_foreign_cache_is_replaced_or_left_out():
    model, neighbors = make(), tokens(1, NEIGHBORS, RETRIEVED)
    found = model(tokens(1, LENGTH), past_key_values=DynamicCache(), neighbor_ids=neighbors, use_cache=False)
    assert found.past_key_values is None
