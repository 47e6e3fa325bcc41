"""The course of a training: counts, log lines, remaining time, and when a checkpoint is due."""

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback

from retrotune.errors import TrainingError
from retrotune.runtime import interruption
from retrotune.runtime.devices import torch_device
from retrotune.runtime.energy import EnergyMeter
from retrotune.runtime.log import duration, logger
from retrotune.study.config import SaveEvery
from retrotune.training.distributed import Processes, agree, summed_if_known


@dataclass(frozen=True)
class Schedule:
    """What the loop needs to know beside model, data and optimizer."""

    steps: int
    accumulation: int
    warmup_steps: int
    final_share: float
    max_grad_norm: float
    bfloat16: bool
    seed: int
    log_every: int = 1
    activation_checkpointing: bool = False


class Course(TrainerCallback):
    """Counts tokens, loss and time, keeps the log lines, says how it goes, and asks for checkpoints."""

    TOLD_SECONDS = 10
    """The log says at most so often how it goes: after the first step, and at the end."""

    SAVING_SHARE = 0.05
    """Where writing a checkpoint takes long, checkpoints by time come so seldom that they take this share of it."""

    def __init__(self, schedule: Schedule, save_every: SaveEvery, processes: Processes) -> None:
        self.schedule, self.save_every, self.processes = schedule, save_every, processes
        self.tokens = 0
        self.loss: Any = 0.0  # of the steps since the last log line; Trainer forgets it when it is interrupted
        self.lines: list[dict[str, Any]] = []
        self.earlier = self.saving = 0.0
        self.earlier_joules: float | None = 0.0
        self.joules: float | None = None
        self.meter = EnergyMeter(())
        self.start = self.saved = time.monotonic()
        self.told = -math.inf

    @property
    def seconds(self) -> float:
        """Seconds of training, those before an interruption included."""
        return self.earlier + time.monotonic() - self.start

    def measure_energy(self) -> None:
        """Let `joules` be the energy of all processes so far, which come here together; None: some of it is unknown."""
        now = summed_if_known(self.meter.joules, self.processes)
        self.joules = None if now is None or self.earlier_joules is None else self.earlier_joules + now

    def state(self) -> dict[str, Any]:
        """What is saved beside a checkpoint."""
        counts = {"tokens": self.tokens, "loss": float(self.loss), "seconds": self.seconds, "joules": self.joules}
        return {**counts, "lines": self.lines}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what was saved beside a checkpoint."""
        self.tokens, self.loss, self.lines = state["tokens"], state["loss"], state["lines"]
        self.earlier = state["seconds"]
        self.earlier_joules = state.get("joules")  # earlier versions saved none

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock, and the meter of this process's GPU."""
        self.start = self.saved = time.monotonic()
        self.meter = EnergyMeter([torch.cuda.current_device()] if torch_device() == "cuda" else ())

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say what the whole training was; one that is stopped says so itself."""
        if self.processes.leads and state.global_step == self.schedule.steps and self.lines:
            loss, rate = self.lines[-1]["loss"], self.tokens / self.seconds
            logger.info(
                "trained %d steps, %d tokens in %s: loss %.3f, %.0f tokens/s",
                state.global_step, self.tokens, duration(self.seconds), loss, rate,
            )  # fmt: skip

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say how it goes; ask for a checkpoint if one is due or a signal stops the run, but not at the very end."""
        step = state.global_step
        if step == self.schedule.steps:
            return
        if self.processes.leads and time.monotonic() - self.told >= self.TOLD_SECONDS:
            self.told = time.monotonic()
            logger.info(
                "step %d of %d: loss %.3f, %.0f tokens/s, %s left",
                step, self.schedule.steps, float(self.loss) / self._steps_since_line(step),
                self.tokens / self.seconds, duration((self.schedule.steps - step) * self.seconds / step),
            )  # fmt: skip
        pause = max(self.save_every.seconds, self.saving / self.SAVING_SHARE)
        by_step = self.save_every.steps is not None and step % self.save_every.steps == 0
        stop, due = interruption.requested(), time.monotonic() - self.saved >= pause
        if not self.processes.alone:
            stop, due = agree(stop, due and self.processes.leads)
        control.should_training_stop = stop
        control.should_save = stop or by_step or due

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Keep one line; stop a run that diverged."""
        if logs is None or "loss" not in logs:
            return
        loss, self.loss = float(self.loss) / self._steps_since_line(state.global_step), 0.0
        if not math.isfinite(loss):
            raise TrainingError(f"step {state.global_step}: the loss is {loss}; lower the learning rate")
        line = {"step": state.global_step, "loss": loss, "learning_rate": logs["learning_rate"]}
        line |= {"grad_norm": logs.get("grad_norm"), "tokens": self.tokens, "seconds": round(self.seconds, 3)}
        self.lines.append(line)

    def _steps_since_line(self, step: int) -> int:
        return step - (int(self.lines[-1]["step"]) if self.lines else 0)
