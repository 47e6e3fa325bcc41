"""Trainings for one process or several, called by name as the workflow's stages are."""

import json
import os
import shutil
import signal
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from methods_cases import tiny_model
from safetensors.torch import load_file
from test_training_stages import CELL, METHODS, RECIPE, pretraining, training

from retrotune.errors import Interrupted, TrainingError
from retrotune.runtime import interruption
from retrotune.study.config import AdapterMethod, LoraMethod, SaveEvery
from retrotune.training import finetune as finetuning
from retrotune.training.distributed import Processes, join, summed_if_known
from retrotune.training.finetune import finetune_cell
from retrotune.training.planned import PlannedBatches
from retrotune.training.pretrain import pretrain_model

FAMILIES = ("gpt", "retro")
PLAIN = [AdapterMethod(kind="adapter", bottleneck_dim=4, dropout=0.0) if m.kind == "adapter" else m for m in METHODS]
LORA, _, _, FULL = PLAIN
DROPPING = LoraMethod(kind="lora", rank=4, dropout=0.3)
KINDS = {"whole": False, "sharded": True}
STOPPED = [("whole", DROPPING), ("sharded", DROPPING), ("sharded", FULL)]
STEPS = 4


def skip_with_one_gpu():
    if torch.cuda.device_count() == 1:
        pytest.skip("two processes need two GPUs, or none")


def finetune(root, out, family, method, sharded=False, save_every=None, gate=None, precision="float32", **recipe):
    recipe = {"learning_rate": 0.02, "max_steps": STEPS, "micro_batch_size": 1, "batch_size": 4} | recipe
    inputs = (root / family, root / "train.parquet", root / "neighbors.parquet")
    params = training("gpt" if family == "llama" else family, method, gate, precision, **recipe)
    finetune_cell(params, CELL, *inputs, out, work_of(out), threads=1, save_every=save_every, sharded=sharded)


def pretrain(root, out, family, sharded=False, **changes):
    recipe = RECIPE.model_copy(update={"steps": STEPS, "optimizer": "adamw", "learning_rate": 0.003, **changes})
    pretrain_model(
        pretraining(family, recipe), root, root / "tokenizer.json", root / "documents.json", out, work_of(out),
        threads=1, sharded=sharded,
    )  # fmt: skip


def work_of(out):
    return out.with_name(f"{out.name}-work")


def weights(folder):
    return {
        (file.name, name): value
        for file in sorted(folder.rglob("*.safetensors"))
        for name, value in load_file(file).items()
    }


def add_llama(root):
    """A model of the hub's kind, its input and output embeddings one matrix."""
    shutil.copytree(root / "gpt", root / "llama", ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    model = tiny_model("llama", tie_word_embeddings=True)
    model.resize_token_embeddings(300)
    model.config.max_position_embeddings = 96
    model.save_pretrained(root / "llama")


def trainings(root, into, sharded):
    """Each method and family, base models, and what is particular."""
    for method in PLAIN:
        finetune(root, into / f"retro-{method.kind}", "retro", method, sharded)
    for family in FAMILIES:
        pretrain(root, into / f"{family}-base", family, sharded)
    finetune(root, into / "gpt-lora", "gpt", LORA, sharded)
    finetune(root, into / "llama-full", "llama", FULL, sharded, activation_checkpointing=True)
    finetune(root, into / "closed", "retro", FULL, sharded, gate=0.0)
    finetune(root, into / "three", "retro", LORA, sharded, batch_size=3)


def train_all(root: Path, work_dir: Path, threads: int, sharded: bool) -> None:
    """All trainings, with whole weights and with sharded ones; then runs that signals stop."""
    torch.set_num_threads(threads)
    for kind, shard in KINDS.items():
        trainings(root, root / kind, shard)
    for kind, method in STOPPED:
        finetune(root, root / kind / f"undisturbed-{method.kind}", "retro", method, KINDS[kind])
        stopped(root, root / kind / f"stopped-{method.kind}", "retro", method, KINDS[kind])
    finetune(root, root / "sharded" / "one", "gpt", LORA, True, batch_size=1)
    try:
        finetune(root, root / "whole" / "one", "gpt", LORA, batch_size=1)
    except TrainingError as error:
        (root / "refused.txt").write_text(str(error))
    rank = dist.get_rank()
    torch.save(torch.rand(8), root / f"drawn-{rank}.pt")
    both = Processes(rank, dist.get_world_size())
    known = [summed_if_known(0.5 + rank, both), summed_if_known(None if rank else 2.0, both)]
    (root / f"summed-{rank}.json").write_text(json.dumps(known))


ON_GPUS = [f"{family}-{method.kind}" for family in FAMILIES for method in PLAIN]


def train_on_gpus(root: Path) -> None:
    """Each method and family in either precision: alone, or sharded also where torchrun has started only one."""
    together = "TORCHELASTIC_RUN_ID" in os.environ
    if together:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        finetuning.join = lambda sharded: replace(join(sharded), sharded=True)
    for precision in ("float32", "bfloat16"):
        for family, method in product(FAMILIES, PLAIN):
            out = root / f"{'together' if together else 'alone'}-{precision}" / f"{family}-{method.kind}"
            checkpointing = method.kind == "full"
            finetune(root, out, family, method, precision=precision, activation_checkpointing=checkpointing)


def stopped(root, out, family, method, sharded):
    """A run in which a signal reaches only one of the processes, each time another."""
    original = PlannedBatches.__getitem__
    for rank, position in ((1, 3), (0, 6), (None, None)):

        def signaling(self, at, rank=rank, position=position):
            if at == position and dist.get_rank() == rank:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(self, at)

        PlannedBatches.__getitem__ = signaling
        try:
            finetune(root, out, family, method, sharded, SaveEvery(steps=3))
            assert rank is None
        except Interrupted as error:
            with open(out.with_name(f"{out.name}-{dist.get_rank()}.txt"), "a") as said:
                said.write(f"{error}\n")
        finally:
            PlannedBatches.__getitem__ = original
            interruption.forget()


def train_until_killed(root: Path, work_dir: Path, threads: int, sharded: bool) -> None:
    """The second process is killed in its third step, if it gets there from the first."""
    original = PlannedBatches.__getitem__
    seen = []

    def killing(self, at):
        seen.append(at)
        if seen == list(range(6)) and not (root / "killed").exists() and self.processes.rank == 1:
            (root / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, at)

    PlannedBatches.__getitem__ = killing
    finetune(root, root / "killed-cell", "gpt", DROPPING, sharded, SaveEvery(steps=1))
    finetune(root, root / "undisturbed-cell", "gpt", DROPPING, sharded)
