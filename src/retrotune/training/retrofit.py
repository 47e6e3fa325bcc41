"""Retrofitting: a GPT trained further, as a RETRO that reads neighbors or, its fair baseline, as the GPT that it is."""

from pathlib import Path
from typing import cast

import torch

from retrotune.errors import TrainingError
from retrotune.models import RetroForCausalLM
from retrotune.models.loading import load_model, load_tokenizer, without_storage
from retrotune.models.retro.retrofit import retrofit, retrofit_config, train_only_new
from retrotune.retrieval.caches.texts import check_tokenizer
from retrotune.runtime.devices import torch_device
from retrotune.runtime.files import read_json, sha256
from retrotune.study.config import PassageLayout, SaveEvery
from retrotune.study.stages import RetrofitParams
from retrotune.training.base import TrainingText, check_length, train_base_model
from retrotune.training.distributed import join


def retrofit_model(
    params: RetrofitParams,
    source_dir: str | Path,
    root: str | Path,
    neighbors: str | Path | None,
    out_dir: str | Path,
    work_dir: str | Path,
    threads: int | None = None,
    save_every: SaveEvery | None = None,
    sharded: bool = False,
) -> None:
    """Train the GPT in `source_dir` further as one of a family; output and `neighbors` as in `pretrain_model`.

    With the same recipe both families see the same tokens in the same order and weigh them
    alike; only the RETRO gets neighbors. The tokenizer is the GPT's. Raises, before any weight is read, `ModelError`
    if the source is no GPT of this package, has no layer for cross-attention or fewer embeddings than its tokenizer
    has pieces, `RetrievalError` if the neighbors were found for another tokenizer's chunks, and `TrainingError` if a
    sequence does not fit the window, or nothing is to be trained.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    processes = join(sharded)
    folder, family, source, recipe = Path(source_dir), params.family, params.source, params.recipe
    tokenizer = load_tokenizer(folder)
    config = retrofit_config(read_json(folder / "config.json", allow_nan=True), recipe, family, source)
    check_length(recipe, config.chunk_length, config.max_position_embeddings)
    if recipe.train == "new" and family == "gpt":
        raise TrainingError(f"{source}: as a GPT it has no new parts to train: train all, or compare with {source}")
    if neighbors is not None:
        check_tokenizer(neighbors, folder / "tokenizer.json")
    tokenizer.model_max_length = config.max_position_embeddings
    device = None if processes.sharded else torch_device()
    empty = processes.sharded and not processes.leads
    gpt = cast(RetroForCausalLM, load_model(folder, torch.float32, device, without_weights=empty))
    torch.manual_seed(recipe.seed)
    with without_storage(empty):
        model = retrofit(gpt, config, copy_encoder=recipe.encoder_start == "decoder")
    model.tie_weights()
    del gpt
    if recipe.train == "new":
        train_only_new(model)
    what = "new parts" if recipe.train == "new" else "all weights"
    train_base_model(
        model,
        tokenizer,
        family,
        recipe,
        TrainingText(params.corpora, root, neighbors, params.layout or PassageLayout()),
        out_dir,
        work_dir,
        origin={
            "source": {"retrofit_from": source, "manifest_sha256": sha256(folder / "manifest.json")},
            "params": params.recorded(),
            "num_trained_parameters": model.num_parameters(only_trainable=True),
            "departures": [f"{Path(out_dir).name} is {source} trained further for {recipe.steps} steps, {what}"],
        },
        start=f"{params.version} {sha256(folder / 'manifest.json')}",
        left_padded=True,
        save_every=save_every,
        processes=processes,
    )
