"""The training loop that pretraining and fine-tuning share: transformers' Trainer over batches planned beforehand."""

import inspect
import math
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, Trainer, TrainingArguments

from retrotune.errors import TrainingError
from retrotune.runtime import interruption
from retrotune.runtime.devices import torch_device
from retrotune.runtime.files import write_jsonl
from retrotune.runtime.log import logger
from retrotune.study.config import SaveEvery
from retrotune.training.checkpoints import checkpoint_path, claim, last_checkpoint, read_checkpoint, seal
from retrotune.training.course import Course, Schedule
from retrotune.training.distributed import (
    ALONE,
    Processes,
    sum_gradients,
    summed,
    told,
    wait_for_all,
)
from retrotune.training.optimizers import cosine_schedule
from retrotune.training.planned import Batch, PlannedBatches, total_weight
from retrotune.training.sharding import clip_gradients, load_local_state, local, local_state


@dataclass(frozen=True)
class Outcome:
    """What a finished run says about itself; what is counted includes what was before an interruption.

    `joules` are those of the GPUs of all processes; None: not measured.
    """

    steps: int
    tokens: int
    seconds: float
    joules: float | None
    final_loss: float


def peak_memory_bytes(device: str) -> int:
    """Highest memory so far: of the device's allocations on a GPU, of the whole process on a CPU."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@interruption.deferred()
def run_training(
    model: nn.Module,
    batches: PlannedBatches,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    work_dir: str | Path,
    log_path: str | Path,
    identity: str,
    save_every: SaveEvery | None = None,
    processes: Processes = ALONE,
) -> Outcome:
    """Train all parameters that require gradients; go on from the last whole checkpoint in `work_dir`, if there is one.

    `identity` is a digest of everything that determines the run: checkpoints of another run in `work_dir` are deleted.
    The caller deletes `work_dir` once the trained weights are saved.

    A run that a signal stops (`runtime.interruption`) saves after the step that it is in and raises `Interrupted`.
    Resumed anywhere, it ends with the same weights and the same log as one that was not interrupted, on a CPU with the
    same number of threads to the bit; only seconds differ.

    Writes one JSON line per `log_every` steps (step, loss, learning_rate, grad_norm, tokens, seconds) to `log_path` at
    the end. The loss is the weighted mean of the tokens' cross-entropies over the whole step, however that is divided
    into micro-batches and dealt to `processes`. Of these the first writes the log, and all save and stop after the same
    step; with the same number of them a resumed run ends as above. Raises `TrainingError` if the loss is not finite or
    a checkpoint cannot be written.
    """
    work = Path(work_dir)
    if not processes.alone:
        identity = f"{identity} {processes.count}{' sharded' if processes.sharded else ''}"
    if processes.leads:
        claim(work, identity)
    cuda = torch_device() == "cuda"
    course = Course(schedule, save_every or SaveEvery(), processes)
    arguments = TrainingArguments(
        output_dir=str(work),
        max_steps=schedule.steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=schedule.accumulation,
        max_grad_norm=schedule.max_grad_norm,
        bf16=schedule.bfloat16,
        seed=processes.seed(schedule.seed),
        activation_checkpointing=schedule.activation_checkpointing,
        use_cpu=not cuda,
        logging_steps=schedule.log_every,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=cuda,
    )
    # The plan's micro-batches go to one device: with several in sight Trainer would wrap the model in DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    uses_cache = base.config.use_cache
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=batches,
        data_collator=lambda items: items[0],
        optimizers=(
            optimizer,
            cosine_schedule(optimizer, schedule.steps, schedule.warmup_steps, schedule.final_share),
        ),
        callbacks=[course],
    )
    trainer.course, trainer.processes = course, processes
    trainer.keeps_logits = "logits_to_keep" in inspect.signature(base.forward).parameters
    trainer.remove_callback(PrinterCallback)
    checkpoint = last_checkpoint(work) if processes.leads else None
    if not processes.alone:
        step = told(int(checkpoint[0].name.rpartition("-")[2]) if checkpoint else 0)
        checkpoint = read_checkpoint(work, step) if step else None
    if checkpoint is not None:
        logger.info("resuming from %s", checkpoint[0])
        course.restore(checkpoint[1])
    trainer.train(resume_from_checkpoint=str(checkpoint[0]) if checkpoint else None)
    if trainer.state.global_step < schedule.steps:
        interruption.stop(f"step {trainer.state.global_step} of {schedule.steps} is saved in {work}", together=True)
    course.measure_energy()
    base.config.use_cache = uses_cache  # Trainer switches it off, and the configuration is saved with the weights
    if processes.leads:
        write_jsonl(log_path, course.lines)
    return Outcome(
        steps=trainer.state.global_step,
        tokens=course.tokens,
        seconds=round(course.seconds, 3),
        joules=course.joules,
        final_loss=course.lines[-1]["loss"],
    )


def weighted_loss(
    logits_BTV: torch.Tensor, labels_BT: torch.Tensor, weights_BT: torch.Tensor | None, total: torch.Tensor
) -> torch.Tensor:
    """Sum over tokens of weight x cross-entropy, over `total`; labels of -100 and the first token do not count."""
    targets_N = labels_BT[:, 1:].reshape(-1)
    counted_N = targets_N != -100
    losses_N = nn.functional.cross_entropy(
        logits_BTV[:, :-1].flatten(0, 1)[counted_N].float(), targets_N[counted_N], reduction="none"
    )
    if weights_BT is not None:
        losses_N = losses_N * weights_BT[:, 1:].reshape(-1)[counted_N]
    return losses_N.sum() / total


class _Trainer(Trainer):
    """Trainer with batches in the planned order, the weighted loss, and checkpoints of exactly what is trained."""

    course: Course
    processes: Processes
    keeps_logits: bool
    WEIGHTS, OPTIMIZER, SCHEDULE, GENERATORS = "trained.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Batch], torch.Tensor]:
        """The micro-batches of one step, and the total weight of their tokens."""
        samples, _ = super().get_batch_samples(*args, **kwargs)
        if self.processes.alone:
            whole = [(batch["attention_mask"].sum(), total_weight(batch)) for batch in samples]
        else:
            whole = [(batch.pop("tokens"), batch.pop("total_weight")) for batch in samples]
        self.course.tokens += int(sum(tokens for tokens, _ in whole))
        return samples, torch.stack([weight for _, weight in whole]).sum().clamp(min=1e-6)

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The micro-batch's share of the step's weighted mean."""
        arguments: dict[str, Any] = dict(inputs)
        labels_BT, weights_BT = arguments.pop("labels"), arguments.pop("loss_weights", None)
        if self.keeps_logits:
            # Logits only where a token is predicted: with answer-only loss most of the prompt needs none.
            first = max(int((labels_BT != -100).any(0).int().argmax()) - 1, 0)
            arguments["logits_to_keep"] = labels_BT.shape[1] - first
            labels_BT = labels_BT[:, first:]
            weights_BT = None if weights_BT is None else weights_BT[:, first:]
        logits_BTV = model(**arguments).logits
        return weighted_loss(logits_BTV, labels_BT, weights_BT, num_items_in_batch.to(logits_BTV.device))

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One micro-batch; its loss is a share of the step's, so Trainer must not divide it by their number."""
        self.current_gradient_accumulation_steps = 1
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self.course.loss += loss if self.processes.alone else summed(loss)
        last = self.accelerator.sync_gradients
        if last and not self.processes.alone and not self.processes.sharded:
            sum_gradients(value for _, value in self._trained())
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor:
        if self.processes.sharded:
            return clip_gradients(model, self.args.max_grad_norm)
        norm: torch.Tensor = super()._clip_grad_norm(model)
        return norm

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        if grad_norm is None and self.processes.sharded:
            return clip_gradients(model, math.inf)
        return super()._get_grad_norm(model, grad_norm=grad_norm)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Save, and declare the checkpoint whole; a half one is deleted, as the room may be needed to go on."""
        folder = checkpoint_path(Path(self.args.output_dir), self.state.global_step)
        start = time.monotonic()
        try:
            if self.processes.leads:
                super()._save_checkpoint(*args, **kwargs)
            else:
                self._save_own(folder)
            if not self.processes.alone:
                wait_for_all()
            self.course.measure_energy()
            if self.processes.leads:
                others = [name for rank in range(1, self.processes.count) for name in self._own_files(rank)]
                seal(folder, self.course.state(), others)
            if not self.processes.alone:
                wait_for_all()  # no process ends before the checkpoint is whole
        except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have errors of their own
            shutil.rmtree(folder, ignore_errors=True)
            raise TrainingError(
                f"{folder}: the checkpoint cannot be written ({error}); make room or mend the folder's rights and run "
                "again: training goes on from the checkpoint before"
            ) from error
        self.course.saved = time.monotonic()
        self.course.saving = self.course.saved - start

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        trained = {name: local(value.detach()).contiguous() for name, value in self._trained()}
        save_file(trained, folder / self._own(self.WEIGHTS))

    def _save_own(self, folder: Path) -> None:
        """What only this process has: its generators and, if sharded, its shares."""
        folder.mkdir(parents=True, exist_ok=True)
        self._save_rng_state(str(folder))
        if self.processes.sharded:
            self._save(str(folder))
            self._save_optimizer_and_scheduler(str(folder))

    def _own(self, name: str, rank: int | None = None) -> str:
        """Name of a process's own file in a checkpoint; the first process's have the plain names."""
        rank = self.processes.rank if rank is None else rank
        stem, dot, end = name.partition(".")
        return f"{stem}-{rank}{dot}{end}" if rank else name

    def _own_files(self, rank: int) -> list[str]:
        shares = (self.WEIGHTS, self.OPTIMIZER) if self.processes.sharded else ()
        return [self._own(name, rank) for name in (self.GENERATORS, *shares)]

    def _save_rng_state(self, output_dir: str) -> None:
        with tempfile.TemporaryDirectory(dir=output_dir) as own:
            super()._save_rng_state(own)
            (Path(own) / self.GENERATORS).rename(Path(output_dir) / self._own(self.GENERATORS))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None and not self.processes.leads:
            with tempfile.TemporaryDirectory() as own:
                shutil.copy(Path(checkpoint) / self._own(self.GENERATORS), Path(own) / self.GENERATORS)
                super()._load_rng_state(own)
            return
        super()._load_rng_state(checkpoint)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.processes.sharded:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        torch.save(local_state(self.optimizer.optimizer), Path(output_dir) / self._own(self.OPTIMIZER))
        if self.processes.leads:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / self.SCHEDULE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self.processes.sharded:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        folder = Path(checkpoint)
        saved = torch.load(folder / self._own(self.OPTIMIZER), map_location="cpu", weights_only=True)
        load_local_state(self.optimizer.optimizer, saved)
        self.lr_scheduler.load_state_dict(torch.load(folder / self.SCHEDULE, weights_only=True))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        weights = self._own(self.WEIGHTS) if self.processes.sharded else self.WEIGHTS
        saved = load_file(Path(resume_from_checkpoint) / weights)
        trained = {name: local(value.data) for name, value in self._trained()}
        if saved.keys() != trained.keys():
            raise TrainingError(f"{resume_from_checkpoint}: a checkpoint of another model or method; delete the folder")
        with torch.no_grad():
            for name, value in trained.items():
                value.copy_(saved[name])

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, value) for name, value in self.model.named_parameters() if value.requires_grad)
