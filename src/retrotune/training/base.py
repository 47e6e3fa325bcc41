"""Training of base models on text, from random weights (`pretrain.py`) or from a GPT (`retrofit.py`): one code path.

What differs comes in from outside: the model as it starts, its tokenizer, and what its manifest says of its origin.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch

from retrotune.errors import TrainingError
from retrotune.models import RetroForCausalLM
from retrotune.models.retro.retrofit import new_modules
from retrotune.models.sizes import departures
from retrotune.preparing.documents import count_bad
from retrotune.prompting.assemble import special_ids
from retrotune.retrieval.caches.texts import corpus_documents, load_pretraining_neighbors
from retrotune.runtime import interruption
from retrotune.runtime.devices import device_name, torch_device, torch_facts
from retrotune.runtime.files import sha256_text, write_json
from retrotune.runtime.log import log_configuration, logger
from retrotune.study.config import CorpusEntry, Family, PassageLayout, Recipe, RetrofittingRecipe, SaveEvery
from retrotune.study.model_folders import weights_digests
from retrotune.training.course import Schedule
from retrotune.training.distributed import ALONE, Processes, check_shares
from retrotune.training.loop import peak_memory_bytes, run_training
from retrotune.training.optimizers import adamw, muon
from retrotune.training.planned import Batch, PlannedBatches, plan_batches
from retrotune.training.sequences import SequenceCollator, SequenceMaker, TokenSequence, digest, passage_texts
from retrotune.training.sharding import gathered, shard

LOG_LINES = 200
"""About so many lines are logged per run, however long it is."""


@dataclass(frozen=True)
class TrainingText:
    """Documents of `corpora` below `root`, and the cache of passages found for them (None: no passages).

    `layout` says where a family gets its passages.
    """

    corpora: Mapping[str, CorpusEntry]
    root: str | Path
    neighbors: str | Path | None = None
    layout: PassageLayout = field(default_factory=PassageLayout)


def check_length(recipe: Recipe, chunk_length: int, window: int) -> None:
    """Raise `TrainingError` if sequences exceed the model's window or, in `chunk` mode, are not whole chunks."""
    length = recipe.sequence_length
    if length > window:
        raise TrainingError(
            f"sequence_length={length} exceeds the model's window: lower it, or take a model whose window is longer "
            f"than {window}"
        )
    if recipe.neighbors_per == "chunk" and length % chunk_length:
        raise TrainingError(
            f"sequence_length={length} is no multiple of the chunk length {chunk_length}: neighbors per chunk need"
            " whole chunks"
        )


def planned_batches(
    model: RetroForCausalLM,
    tokenizer: Any,
    recipe: Recipe,
    text: TrainingText,
    left_padded: bool,
    processes: Processes = ALONE,
) -> tuple[PlannedBatches, list[TokenSequence], dict[str, int]]:
    """(batches of the whole run, the sequences that they hold, bad records by corpus).

    `left_padded`: sequences of whole documents are shifted within a chunk, as RETRO's are in fine-tuning, and are so
    short that the shift fits the window.
    """
    config, per_chunk = model.config, recipe.neighbors_per == "chunk"
    layout = text.layout if text.neighbors else PassageLayout()
    length = recipe.sequence_length
    if left_padded and not per_chunk:
        length = min(length, config.max_position_embeddings - config.chunk_length + 1)
    maker = SequenceMaker(tokenizer, length, config.chunk_length, config.retrieved_length, layout, recipe.emphasis)
    found = passage_texts(load_pretraining_neighbors(text.neighbors)) if text.neighbors else {}
    bad = count_bad(text.corpora)
    sequences = (maker.chunks if per_chunk else maker.documents)(corpus_documents(text.corpora, text.root, bad), found)
    collator = SequenceCollator(
        special_ids(tokenizer)[0],
        config.chunk_length if per_chunk or left_padded else 1,
        layout.num_neighbors,
        recipe.no_passage_share,
        per_chunk=per_chunk,
    )

    def collate(numbers: list[int], rng: Random) -> Batch:
        return collator([sequences[number] for number in numbers], rng)

    lengths = [sequence.length for sequence in sequences]
    plan = plan_batches(lengths, recipe.steps, recipe.batch_size, recipe.batch_size, recipe.seed)
    skipped = {name: records.reasons.total() for name, records in bad.items()}
    return PlannedBatches(plan, collate, recipe.seed, processes), sequences, skipped


@interruption.deferred()  # what is trained is written before a signal stops the run
def train_base_model(
    model: RetroForCausalLM,
    tokenizer: Any,
    family: Family,
    recipe: Recipe,
    text: TrainingText,
    out_dir: str | Path,
    work_dir: str | Path,
    origin: Mapping[str, Any],
    start: str,
    left_padded: bool,
    save_every: SaveEvery | None = None,
    processes: Processes = ALONE,
) -> None:
    """Train what requires gradients and write the model to `out_dir`: weights, tokenizer, log, `manifest.json` last.

    `origin` joins the manifest; its `departures` come after the architecture's. `start` names what determines the
    first weights: an interrupted run goes on from its last checkpoint in `work_dir` only if that is the same.

    Several `processes` train together, and the first writes. With sharded weights the first one's `model` counts.
    """
    check_shares(recipe.batch_size, processes)
    device = torch_device()
    log_configuration(
        {
            "model": Path(out_dir).name,
            "family": family,
            "retrofit_from": origin["source"]["retrofit_from"] if isinstance(recipe, RetrofittingRecipe) else None,
            "corpora": ",".join(text.corpora),
            "neighbors": None if text.neighbors is None else str(text.neighbors),
            **{name: getattr(recipe, name) for name in ("steps", "batch_size", "sequence_length", "learning_rate")},
            **recipe.given(),
            **torch_facts(device, recipe.precision),
        }
    )
    batches, sequences, skipped = planned_batches(model, tokenizer, recipe, text, left_padded, processes)
    num_parameters = model.num_parameters()
    embedding = model.get_input_embeddings().weight.numel()
    head = 0 if model.config.tie_word_embeddings else model.get_output_embeddings().weight.numel()
    if processes.sharded:
        if recipe.optimizer == "muon":
            raise TrainingError("optimizer: muon works on whole matrices: take adamw for sharded weights")
        shard(model, device)
    else:
        model.to(device)
    logger.info("%d sequences, %d parameters, %d steps", len(sequences), num_parameters, recipe.steps)
    out, work, config = Path(out_dir), Path(work_dir), model.config
    outcome = run_training(
        model,
        batches,
        _optimizer(model, recipe),
        Schedule(
            steps=recipe.steps,
            accumulation=1,
            warmup_steps=recipe.warmup_steps,
            final_share=0.1,
            max_grad_norm=1.0,
            bfloat16=recipe.precision == "bfloat16",
            seed=recipe.seed,
            activation_checkpointing=recipe.activation_checkpointing,
            log_every=max(1, recipe.steps // LOG_LINES),
        ),
        work_dir=work,
        log_path=out / "train_log.jsonl",
        identity=sha256_text(
            f"{start} {config.to_json_string()} {recipe.model_dump_json()} "
            f"{text.layout.model_dump_json()} {digest(sequences)}"
        ),
        save_every=save_every,
        processes=processes,
    )
    weights = gathered(model, all_weights=True) if processes.sharded else None
    if not processes.leads:
        return
    model.save_pretrained(out, state_dict=weights)
    tokenizer.save_pretrained(out)
    write_json(
        out / "manifest.json",
        {
            "family": family,
            **origin,
            "num_parameters": num_parameters,
            "num_non_embedding_parameters": num_parameters - embedding - head,
            "departures": [*departures(config), *origin.get("departures", ())],
            "steps": outcome.steps,
            "tokens": outcome.tokens,
            "seconds": outcome.seconds,
            "peak_memory_bytes": peak_memory_bytes(device),
            "energy_joules": outcome.joules,
            "num_devices": processes.count,
            "device": device_name(device),
            "final_loss": outcome.final_loss,
            "num_sequences": len(sequences),
            "skipped": skipped,
            "weights_sha256": weights_digests(out),
        },
    )
    shutil.rmtree(work)


def _optimizer(model: RetroForCausalLM, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "muon":
        other_rate = recipe.embedding_learning_rate or recipe.learning_rate
        return muon(model, recipe.learning_rate, other_rate, recipe.weight_decay, recipe.muon_precision)
    new = (parameter for module in new_modules(model) for parameter in module.parameters())
    new_rate = recipe.new_learning_rate if isinstance(recipe, RetrofittingRecipe) else None
    return adamw(model, recipe.learning_rate, recipe.weight_decay, (0.9, 0.95), apart=new, rate_apart=new_rate)
