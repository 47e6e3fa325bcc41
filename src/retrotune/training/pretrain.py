"""Pretraining of base models from scratch, with the passages that retrieval found for the training text."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from random import Random

import torch

from retrotune.config import CorpusEntry, Family, Passages, PretrainingEntry, SizeEntry
from retrotune.corpus.documents import count_bad
from retrotune.errors import TrainingError
from retrotune.files import sha256, sha256_text, write_json
from retrotune.log import logger
from retrotune.models import RetroForCausalLM
from retrotune.models.sizes import build_config, departures
from retrotune.retrieval.neighbors import corpus_documents, load_pretraining_neighbors
from retrotune.stages import STAGE_VERSIONS
from retrotune.training.batches import special_ids
from retrotune.training.loop import Batch, PlannedBatches, Schedule, plan_batches, run_training
from retrotune.training.optimizers import adamw, muon
from retrotune.training.sequences import SequenceCollator, SequenceMaker, digest, passage_texts
from retrotune.training.tokenizer import wrap_tokenizer

LOG_LINES = 200
"""About so many lines are logged per run, however long it is."""


def pretrain_model(
    family: Family,
    size: str | SizeEntry,
    pretraining: PretrainingEntry,
    passages: Passages | None,
    corpora: Mapping[str, CorpusEntry],
    root: str | Path,
    tokenizer_json: str | Path,
    neighbors: str | Path | None,
    out_dir: str | Path,
    work_dir: str | Path,
    threads: int | None = None,
) -> None:
    """Train a model of a family and size and write it to `out_dir`: weights, tokenizer, log, `manifest.json` last.

    `passages` is the family's layout, `neighbors` the cache of `cache_pretraining_neighbors` (None: no passages). An
    interrupted run goes on from its last checkpoint in `work_dir`. Raises `TrainingError` if a sequence does not fit
    the model's window, or does not consist of whole chunks in `chunk` mode.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    layout = (passages or Passages()) if neighbors else Passages()
    tokenizer = wrap_tokenizer(tokenizer_json)
    torch.manual_seed(pretraining.seed)
    pad_id, eos_id = special_ids(tokenizer)
    config = build_config(size, family, vocab_size=len(tokenizer), pad_token_id=pad_id, eos_token_id=eos_id)
    tokenizer.model_max_length = config.max_position_embeddings
    per_chunk = pretraining.neighbors_per == "chunk"
    length = _sequence_length(pretraining, config.chunk_length, config.max_position_embeddings, family)
    model = RetroForCausalLM(config).to("cuda" if torch.cuda.is_available() else "cpu")

    maker = SequenceMaker(
        tokenizer,
        length,
        config.chunk_length,
        config.retrieved_length,
        layout,
        pretraining.emphasis,
    )
    found = passage_texts(load_pretraining_neighbors(neighbors)) if neighbors else {}
    bad = count_bad(corpora)
    sequences = (maker.chunks if per_chunk else maker.documents)(corpus_documents(corpora, root, bad), found)
    collator = SequenceCollator(
        pad_id,
        config.chunk_length if per_chunk or family == "retro" else 1,
        layout.num_neighbors,
        pretraining.no_passage_share,
        per_chunk=per_chunk,
    )

    def collate(numbers: list[int], rng: Random) -> Batch:
        return collator([sequences[number] for number in numbers], rng)

    if pretraining.optimizer == "muon":
        other_rate = pretraining.embedding_learning_rate or pretraining.learning_rate
        optimizer = muon(model, pretraining.learning_rate, other_rate, pretraining.weight_decay)
    else:
        optimizer = adamw(model, pretraining.learning_rate, pretraining.weight_decay, (0.9, 0.95))
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    logger.info("%d sequences, %d parameters, %d steps", len(sequences), num_parameters, pretraining.steps)
    out, work = Path(out_dir), Path(work_dir)
    plan = plan_batches(
        [sequence.length for sequence in sequences],
        pretraining.steps,
        pretraining.batch_size,
        pretraining.batch_size,
        pretraining.seed,
    )
    outcome = run_training(
        model,
        PlannedBatches(plan, collate, pretraining.seed),
        optimizer,
        Schedule(
            steps=pretraining.steps,
            accumulation=1,
            warmup_steps=pretraining.warmup_steps,
            final_share=0.1,
            max_grad_norm=1.0,
            bfloat16=pretraining.precision == "bfloat16",
            seed=pretraining.seed,
            log_every=max(1, pretraining.steps // LOG_LINES),
        ),
        work_dir=work,
        log_path=out / "train_log.jsonl",
        identity=sha256_text(
            f"{STAGE_VERSIONS['pretrain_model']} {config.to_json_string()} {pretraining.model_dump_json()} "
            f"{layout.model_dump_json()} {digest(sequences)}"
        ),
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    embedding = model.get_input_embeddings().weight.numel()
    head = 0 if config.tie_word_embeddings else model.get_output_embeddings().weight.numel()
    write_json(
        out / "manifest.json",
        {
            "family": family,
            "source": "pretraining",
            "num_parameters": num_parameters,
            "num_non_embedding_parameters": num_parameters - embedding - head,
            "departures": departures(config),
            "steps": outcome.steps,
            "tokens": outcome.tokens,
            "seconds": outcome.seconds,
            "final_loss": outcome.final_loss,
            "num_sequences": len(sequences),
            "skipped": {name: records.reasons.total() for name, records in bad.items()},
            "weights_sha256": {file.name: sha256(file) for file in sorted(out.glob("*.safetensors"))},
        },
    )
    shutil.rmtree(work)


def _sequence_length(pretraining: PretrainingEntry, chunk_length: int, window: int, family: str) -> int:
    """Tokens per sequence; RETRO's sequences leave room for left padding in its window."""
    length = pretraining.sequence_length
    if length > window:
        raise TrainingError(
            f"sequence_length={length} exceeds the model's window: lower it, or raise max_length={window}"
        )
    if pretraining.neighbors_per == "chunk":
        if length % chunk_length:
            raise TrainingError(
                f"sequence_length={length} is no multiple of the chunk length {chunk_length}: neighbors per chunk need"
                " whole chunks"
            )
        return length
    return min(length, window - chunk_length + 1) if family == "retro" else length
