"""Batches planned beforehand: the examples of every micro-batch of a whole run.

The plan depends on the seed alone, so a run that was interrupted and resumed sees the same batches as one that was not.
"""

import random
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import Dataset

from retrotune.training.distributed import ALONE, Processes, own_rows

Batch = dict[str, torch.Tensor]
BUCKET_STEPS = 16
"""Examples of so many steps are sorted by length before they are cut into batches: little padding, still mixed."""


def plan_batches(
    lengths: Sequence[int], steps: int, batch_size: int, micro_batch_size: int, seed: int
) -> list[list[int]]:
    """Example numbers of each micro-batch, `steps` x ceil(batch_size / micro_batch_size) of them.

    Examples come in shuffled epochs that follow each other without a gap, so every step is full. Within
    `BUCKET_STEPS` steps examples of similar length are put together, and the steps are shuffled again.
    """
    assert lengths, "nothing to plan"
    rng = random.Random(seed)  # noqa: S311 (reproducible, not secret)

    def stream() -> Iterator[int]:
        while True:
            yield from rng.sample(range(len(lengths)), len(lengths))

    numbers = stream()
    plan: list[list[int]] = []
    for first in range(0, steps, BUCKET_STEPS):
        here = min(BUCKET_STEPS, steps - first)
        bucket = sorted((next(numbers) for _ in range(here * batch_size)), key=lambda number: lengths[number])
        batches = [bucket[start : start + batch_size] for start in range(0, len(bucket), batch_size)]
        rng.shuffle(batches)
        plan += [
            batch[start : start + micro_batch_size]
            for batch in batches
            for start in range(0, batch_size, micro_batch_size)
        ]
    return plan


class PlannedBatches(Dataset[Batch]):
    """Collated micro-batches of a plan, made when they are asked for.

    `collate(numbers, rng)` gets the example numbers and a generator that depends on seed and position alone. Of several
    processes each gets its rows of the batch, with what the loop must know of the whole: `tokens` and `total_weight`.
    """

    def __init__(
        self,
        plan: list[list[int]],
        collate: Callable[[list[int], random.Random], Batch],
        seed: int,
        processes: Processes = ALONE,
    ) -> None:
        self.plan, self.collate, self.seed, self.processes = plan, collate, seed, processes

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, position: int) -> Batch:
        batch = self.collate(self.plan[position], random.Random(f"{self.seed}/{position}"))  # noqa: S311
        if self.processes.alone:
            return batch
        whole = {"tokens": batch["attention_mask"].sum(), "total_weight": total_weight(batch)}
        return own_rows(batch, self.processes) | whole


def total_weight(batch: Batch) -> torch.Tensor:
    """Sum of the weights of a batch's predicted tokens."""
    counted_BT = batch["labels"][:, 1:] != -100
    return (counted_BT * batch["loss_weights"][:, 1:]).sum() if "loss_weights" in batch else counted_BT.sum()
