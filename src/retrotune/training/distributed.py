"""What the processes that train one model together do in common.

Each collates every micro-batch whole, as one process would, and trains on its own rows: what is drawn at random for a
batch, its shape, and the weight of its tokens are the same everywhere, without a word between them. Gradients are
summed once per step, in an order that never changes, so that a resumed run ends with the same bits. torch's
DistributedDataParallel forms its buckets anew after the first step of each run, which changes that order; it also wants
to know which weights a batch leaves without gradient.

Weights that are `sharded` (`sharding.py`) have gradients that torch sums itself.

Transformers' Trainer knows nothing of all this: it sees one process with at most one GPU.
"""

import logging
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from typing import cast

import torch
import torch.distributed as dist
from torch import nn

from retrotune.errors import TrainingError
from retrotune.runtime.devices import torch_device
from retrotune.runtime.log import logger

PATIENCE = timedelta(hours=2)
"""So long a process waits for the others: one may have a model to read or a checkpoint to write."""
BUCKET_BYTES = 256 * 2**20
"""Gradients are summed in pieces of about so many bytes."""
_HIDDEN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE")


@dataclass(frozen=True)
class Processes:
    """This process among those that train together."""

    rank: int = 0
    count: int = 1
    sharded: bool = False

    @property
    def leads(self) -> bool:
        """Whether it is the one that writes what all have made."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.count == 1

    def seed(self, seed: int) -> int:
        """A seed of this process's own for what it draws while it trains (dropout); the first one's is `seed`."""
        return seed if self.leads else random.Random(f"{seed}/{self.rank}").getrandbits(31)  # noqa: S311


ALONE = Processes()
"""A process that trains by itself."""


def join(sharded: bool = False) -> Processes:
    """Meet the others that torchrun has started; a process that it has not started is alone."""
    if not dist.is_initialized():
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return ALONE
        # Tensors in main memory go through gloo also where there are GPUs: small words between two steps.
        backend = "cpu:gloo,cuda:nccl" if torch_device() == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
        for name in _HIDDEN:
            os.environ.pop(name, None)
        # it advises to start the processes in another way
        logging.getLogger("transformers.training_args").setLevel(logging.ERROR)
    count = dist.get_world_size()
    return Processes(dist.get_rank(), count, sharded and count > 1)


def check_shares(batch_size: int, processes: Processes) -> None:
    """Raise `TrainingError` if there are processes without a sequence; sharded ones are needed for what they hold."""
    if batch_size >= processes.count:
        return
    message = (
        f"batch_size={batch_size} leaves {processes.count - batch_size} of {processes.count} processes without work"
    )
    if not processes.sharded:
        raise TrainingError(f"{message}: raise it, or ask for fewer GPUs, processes or nodes in the model's resources")
    if processes.leads:
        logger.warning("%s beside holding their share of the model", message)


def own_rows(batch: Mapping[str, torch.Tensor], processes: Processes) -> dict[str, torch.Tensor]:
    """Every n-th row of a batch; a process without any gets the first, without labels."""
    rows = {name: tensor[processes.rank :: processes.count] for name, tensor in batch.items()}
    if len(rows["labels"]):
        return rows
    rows = {name: tensor[:1] for name, tensor in batch.items()}
    return rows | {"labels": torch.full_like(rows["labels"], -100)}


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum each gradient over all processes, in place. One that no process has stays absent, as with one process."""
    trained = list(parameters)
    present = torch.tensor([parameter.grad is not None for parameter in trained], dtype=torch.uint8)
    dist.all_reduce(present, dist.ReduceOp.MAX)
    chosen = [parameter for parameter, there in zip(trained, present.tolist(), strict=True) if there]
    for parameter in chosen:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for bucket in _buckets([cast(torch.Tensor, parameter.grad) for parameter in chosen]):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        dist.all_reduce(flat)
        for gradient, summed in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
            gradient.copy_(summed.view_as(gradient))


def _buckets(gradients: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Gradients of one number type each, in their order."""
    made: list[list[torch.Tensor]] = []
    for _, members in groupby(sorted(gradients, key=lambda gradient: str(gradient.dtype)), lambda one: one.dtype):
        size = BUCKET_BYTES
        for gradient in members:
            if size >= BUCKET_BYTES:
                made.append([])
                size = 0
            made[-1].append(gradient)
            size += gradient.numel() * gradient.element_size()
    return made


def summed(value: torch.Tensor) -> torch.Tensor:
    """A number of each process, summed over all, where it lies."""
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


def summed_if_known(value: float | None, processes: Processes) -> float | None:
    """A number of each process, summed over all, which come here together; None if a process does not know its own."""
    if processes.alone:
        return value
    (unknown,) = agree(value is None)
    total = float(summed(torch.tensor(value or 0.0, dtype=torch.float64)))
    return None if unknown else total


def agree(*wishes: bool) -> list[bool]:
    """Which of several things any process wishes."""
    flags = torch.tensor(wishes, dtype=torch.uint8)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return [bool(flag) for flag in flags.tolist()]


def told(number: int) -> int:
    """The first process's number, on all."""
    value = torch.tensor([number])
    dist.broadcast(value, 0)
    return int(value)


def wait_for_all() -> None:
    """Return when every process has come here."""
    agree(False)
