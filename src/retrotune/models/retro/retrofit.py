"""Surgery: a GPT becomes a RETRO by adding a neighbor encoder and cross-attention (RETRO-fitting, arXiv 2112.04426).

New weights are random as in a new model (the encoder's may be copies of the decoder's first layers), but for the
output projections of the decoder's cross-attention. They are zero: until training moves them, the RETRO gives the GPT's
logits, whatever neighbors it reads.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import nn

from retrotune.errors import ModelError
from retrotune.models.retro.configuration import RetroConfig, default_cross_attention_layers
from retrotune.models.retro.modeling import DecoderLayer, RetroForCausalLM
from retrotune.study.config import Family, RetrofittingRecipe

OURS = RetroConfig.model_type


def retrofit_config(source: Mapping[str, Any], entry: RetrofittingRecipe, family: Family, name: str) -> RetroConfig:
    """The configuration of a GPT that is trained further as one of `family`, from the GPT's `config.json`.

    Both families take chunk and neighbor lengths from `entry`, so that the baseline is trained on the same sequences.
    `name` is the GPT's, for messages. Raises `ModelError` if the source is no GPT of this package, or if its depth has
    no cross-attention layer or not those that are listed.
    """
    found = source.get("model_type")
    if found != OURS:
        raise ModelError(
            f"{name}: a model of type {found!r} cannot be retrofitted: give its folder as models.{name}.checkpoint: "
            "{path: FOLDER}, which converts it"
        )
    if source.get("cross_attention_layers") != []:
        raise ModelError(f"{name}: a RETRO already (it has cross-attention layers): retrofit a GPT")
    layers: list[int] = []
    if family == "retro":
        depth = source["num_hidden_layers"]
        listed = entry.cross_attention_layers
        layers = default_cross_attention_layers(depth) if listed is None else list(listed)
        if not layers:
            raise ModelError(
                f"{name}: NVIDIA's rule puts no cross-attention layer into {depth} layers (it needs 6 or more): list "
                "the retrofitting's cross_attention_layers"
            )
        if max(layers) >= depth:
            raise ModelError(f"{name}: cross_attention_layers {layers}: there are layers 0 to {depth - 1} only")
    changes = {
        "cross_attention_layers": layers,
        "encoder_num_layers": entry.encoder_layers,
        "chunk_length": entry.chunk_length,
        "retrieved_length": entry.retrieved_length,
        "short_chunk": "last",
    }
    return RetroConfig.from_dict({**source, **changes})


def retrofit(gpt: RetroForCausalLM, config: RetroConfig, copy_encoder: bool = False) -> RetroForCausalLM:
    """The model of `config` with the weights of `gpt` and new parts drawn from torch's current random state.

    `copy_encoder`: the encoder's layers start as copies of the decoder's first ones, as far as they are alike. The two
    models share the GPT's weights in memory. With no cross-attention layer in `config` nothing is new.
    """
    with torch.device("meta"):
        model = RetroForCausalLM(config).to(gpt.dtype)
    loaded = model.load_state_dict(gpt.state_dict(), strict=False, assign=True)
    model.tie_weights()
    for module in new_modules(model):
        module.to_empty(device=gpt.device)
        module.apply(model._init_weights)
    encoder = model.model.neighbor_encoder
    if encoder is not None and copy_encoder:
        for ours, theirs in zip(encoder.layers, _layers(gpt), strict=False):
            # what the two lack of each other: cross-attention to the chunk, and the decoder's key shift
            ours.load_state_dict(theirs.state_dict(), strict=False)
    for layer in _layers(model):
        if layer.cross_attention is not None:
            for parameter in layer.cross_attention.o_proj.parameters():
                nn.init.zeros_(parameter)
    new = {id(parameter) for module in new_modules(model) for parameter in module.parameters()}
    lost = [name for name, value in model.named_parameters() if name in loaded.missing_keys and id(value) not in new]
    if lost or loaded.unexpected_keys:
        raise ModelError(f"weights of the GPT do not fit: missing {lost}, unexpected {loaded.unexpected_keys}")
    model.generation_config = gpt.generation_config
    return model.train(gpt.training)


def new_modules(model: RetroForCausalLM) -> Iterator[nn.Module]:
    """What a RETRO has and a GPT has not: the neighbor encoder, and cross-attention with its norm."""
    if model.model.neighbor_encoder is not None:
        yield model.model.neighbor_encoder
    for layer in _layers(model):
        if layer.cross_attention is not None and layer.cross_norm is not None:
            yield from (layer.cross_norm, layer.cross_attention)


def train_only_new(model: RetroForCausalLM) -> None:
    """Freeze everything that came from the GPT."""
    model.requires_grad_(False)
    for module in new_modules(model):
        module.requires_grad_(True)


def _layers(model: RetroForCausalLM) -> Iterable[DecoderLayer]:
    return cast(Iterable[DecoderLayer], model.model.layers)
