"""Fine-tuning of one cell: answer-only loss, trained weights only."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

import torch

from retrotune.data.datasets.base import Passage
from retrotune.errors import MethodError, TrainingError
from retrotune.methods import attach, base_identity, count_parameters, method_of, save_trained
from retrotune.models.loading import input_digests, load_model, load_tokenizer
from retrotune.preparing.examples import load_examples
from retrotune.retrieval.caches.questions import load_neighbors
from retrotune.runtime import interruption
from retrotune.runtime.devices import device_name, torch_device, torch_facts
from retrotune.runtime.files import sha256_text, write_json
from retrotune.runtime.log import log_configuration, logger
from retrotune.study.cells import Cell
from retrotune.study.config import SaveEvery
from retrotune.study.records import made
from retrotune.study.stages import FinetuneParams
from retrotune.training.batches import cell_batching
from retrotune.training.course import Schedule
from retrotune.training.distributed import check_shares, join
from retrotune.training.loop import peak_memory_bytes, run_training
from retrotune.training.optimizers import adamw
from retrotune.training.planned import Batch, PlannedBatches, plan_batches
from retrotune.training.sharding import gathered, shard


def finetune_cell(
    params: FinetuneParams,
    cell: Cell,
    model_dir: str | Path,
    examples: str | Path,
    neighbors: str | Path | None,
    out_dir: str | Path,
    work_dir: str | Path,
    threads: int | None = None,
    save_every: SaveEvery | None = None,
    sharded: bool = False,
) -> None:
    """Train one cell and write `adapter/`, `train_log.jsonl` (a line per step) and `train.json` into `out_dir`.

    `train.json` says what training cost, and the sha256 of what it read. Checkpoints come into `work_dir` as
    `save_every` says (None: its defaults); a run that finds its own goes on from there.

    Where torchrun has started several processes, they train together, with their weights `sharded` or not: the same up
    to rounding and dropout; memory is the first one's. With the same seed, inputs, `threads` (CPU threads
    of torch; None: as set outside) and number of processes the trained weights are the same to the byte on a CPU. Full
    fine-tuning keeps its weights in float32 even where the model is bfloat16, which would round updates away. Raises
    `TrainingError` if there is nothing to train on, and what batching, loading and attaching raise.
    """
    recipe = params.recipe
    if threads is not None:
        torch.set_num_threads(threads)
    processes = join(sharded)
    check_shares(recipe.batch_size, processes)
    device = torch_device()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    bfloat16 = params.base.precision == "bfloat16"
    halved = bfloat16 and not method_of(params.method).float32
    trusted = params.base.trust_remote_code
    length = {"max_steps": recipe.max_steps} if recipe.max_steps else {"epochs": recipe.epochs}
    always = {**length, "batch_size": recipe.batch_size, "learning_rate": recipe.learning_rate}
    method = {f"method.{name}": value for name, value in params.method.given().items()}
    of_torch = torch_facts(device, "bfloat16" if halved else "float32")
    log_configuration({**vars(cell), **method, **always, **recipe.given(), **params.base.given(), **of_torch})
    tokenizer = load_tokenizer(model_dir, trusted)
    dtype = torch.bfloat16 if halved else torch.float32
    base = load_model(
        model_dir,
        dtype,
        None if processes.sharded else device,
        params.base.retrieval_gate,
        without_weights=processes.sharded and not processes.leads,
        trust_remote_code=trusted,
    )
    torch.manual_seed(cell.seed)
    try:
        model = attach(base, params.method)
    except MethodError as error:
        raise MethodError(str(error).replace("methods.NAME", f"methods.{cell.method}")) from error
    trainable, total = count_parameters(model)
    base_model = None
    if processes.sharded:
        base_model = base_identity(model) if processes.leads else None
        shard(model, device)

    encoder, collator = cell_batching(params.prompting, cell.model, base.config, tokenizer)
    questions = load_examples(examples)
    if not questions:
        raise TrainingError(f"{examples}: no training questions; raise max_train or use zeroshot")
    passages: Mapping[str, Sequence[Passage]] = load_neighbors(neighbors) if neighbors else {}
    encoded = encoder.encode_all(questions, passages, with_answer=True)

    def collate(numbers: list[int], rng: Random) -> Batch:
        return collator([encoded[number] for number in numbers])

    micro = min((recipe.micro_batch_size or recipe.batch_size) * processes.count, recipe.batch_size)
    steps = recipe.max_steps or max(1, round(recipe.epochs * len(encoded) / recipe.batch_size))
    plan = plan_batches([example.length for example in encoded], steps, recipe.batch_size, micro, cell.seed)
    logger.info("%s: %d steps, %d of %d parameters", cell.name, steps, trainable, total)
    out, work = Path(out_dir), Path(work_dir) / "finetune"
    inputs = input_digests(model_dir, examples, neighbors)
    with interruption.deferred():  # what is trained is written before a signal stops the run
        outcome = run_training(
            model,
            PlannedBatches(plan, collate, cell.seed, processes),
            adamw(model, recipe.learning_rate, recipe.weight_decay, (recipe.beta1, recipe.beta2)),
            Schedule(
                steps=steps,
                accumulation=-(-recipe.batch_size // micro),
                warmup_steps=recipe.warmup_steps,
                final_share=0.0,
                max_grad_norm=recipe.max_grad_norm,
                bfloat16=bfloat16,
                seed=cell.seed,
                activation_checkpointing=recipe.activation_checkpointing,
            ),
            work_dir=work,
            log_path=out / "train_log.jsonl",
            identity=_identity(params, cell.seed, inputs),
            save_every=save_every,
            processes=processes,
        )
        weights = gathered(model) if processes.sharded else None
        if not processes.leads:
            return
        save_trained(model, out / "adapter", weights, base_model)
        write_json(
            out / "train.json",
            {
                "steps": outcome.steps,
                "tokens": outcome.tokens,
                "seconds": outcome.seconds,
                "peak_memory_bytes": peak_memory_bytes(device),
                "energy_joules": outcome.joules,
                "num_devices": processes.count,
                "device": device_name(device),
                "num_trainable_params": trainable,
                "num_total_params": total,
                "adapter_bytes": sum(file.stat().st_size for file in (out / "adapter").rglob("*.safetensors")),
                "final_loss": outcome.final_loss,
                "truncated": sum(example.truncated > 0 for example in encoded),
                "truncated_answers": sum(example.truncated_answer > 0 for example in encoded),
                "inputs": inputs,
                "made": made(),
                "params": params.recorded(),
            },
        )
        shutil.rmtree(work)


def _identity(params: FinetuneParams, seed: int, inputs: Mapping[str, str | None]) -> str:
    """Digest of what determines a run: checkpoints are resumed only where it is the same."""
    return sha256_text(f"{params.text()} {seed} {sorted(inputs.items())}")
