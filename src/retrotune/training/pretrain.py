"""Pretraining of base models from scratch, with the passages that retrieval found for the training text."""

from pathlib import Path

import torch

from retrotune.models import RetroForCausalLM
from retrotune.models.loading import without_storage
from retrotune.models.sizes import build_config
from retrotune.prompting.assemble import special_ids
from retrotune.study.config import PassageLayout, SaveEvery
from retrotune.study.stages import PretrainParams
from retrotune.training.base import TrainingText, check_length, train_base_model
from retrotune.training.distributed import join
from retrotune.training.tokenizer import wrap_tokenizer


def pretrain_model(
    params: PretrainParams,
    root: str | Path,
    tokenizer_json: str | Path,
    neighbors: str | Path | None,
    out_dir: str | Path,
    work_dir: str | Path,
    threads: int | None = None,
    save_every: SaveEvery | None = None,
    sharded: bool = False,
) -> None:
    """Train a model of a family and size and write it to `out_dir`: weights, tokenizer, log, `manifest.json` last.

    `neighbors` is the cache of `cache_pretraining_neighbors` (None: no passages). An interrupted run goes on from its
    last checkpoint in `work_dir`; `save_every` says when there is one (None: its defaults). Several processes that
    torchrun has started train together, with their weights `sharded` or not. Raises `TrainingError` if a sequence does
    not fit the model's window, or does not consist of whole chunks in `chunk` mode.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    processes = join(sharded)
    tokenizer = wrap_tokenizer(tokenizer_json)
    family, recipe = params.family, params.recipe
    torch.manual_seed(recipe.seed)
    pad_id, eos_id = special_ids(tokenizer)
    config = build_config(params.size, family, vocab_size=len(tokenizer), pad_token_id=pad_id, eos_token_id=eos_id)
    tokenizer.model_max_length = config.max_position_embeddings
    check_length(recipe, config.chunk_length, config.max_position_embeddings)
    with without_storage(processes.sharded and not processes.leads):
        model = RetroForCausalLM(config)
    model.tie_weights()
    train_base_model(
        model,
        tokenizer,
        family,
        recipe,
        TrainingText(params.corpora, root, neighbors, params.layout or PassageLayout()),
        out_dir,
        work_dir,
        origin={"source": "pretraining", "params": params.recorded()},
        start=str(params.version),
        left_padded=family == "retro",
        save_every=save_every,
        processes=processes,
    )
