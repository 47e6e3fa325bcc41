"""Trainings for one process or several, called by name as the workflow's stages are."""

from pathlib import Path

from test_training_stages import CORPORA, LAYOUTS, METHODS, RECIPE, SIZE, cell

from retrotune.training.finetune import finetune_cell
from retrotune.training.pretrain import pretrain_model

FAMILIES = ("gpt", "retro")


def finetune(root, out, family, method, work_dir, sharded=False, **recipe):
    recipe = {"learning_rate": 0.02, "max_steps": 5, "micro_batch_size": 1, "batch_size": 4} | recipe
    inputs = (root / family, root / "train.parquet", root / "neighbors.parquet")
    finetune_cell(cell(family, method, **recipe), *inputs, out, work_dir / out.name, threads=1, sharded=sharded)


def pretrain(root, out, family, work_dir, sharded=False, **changes):
    recipe = RECIPE.model_copy(update={"steps": 5, **changes})
    pretrain_model(
        family, SIZE, recipe, LAYOUTS[family], CORPORA, root, root / "tokenizer.json", root / "documents.json",
        out, work_dir / out.name, threads=1, sharded=sharded,
    )  # fmt: skip


def train_all(root: Path, work_dir: Path, threads: int, sharded: bool) -> None:
    """Each method and family, and base models, with whole weights and with sharded ones."""
    assert not sharded
    for kind in (False, True):
        into = root / "several" / ("sharded" if kind else "whole")
        for family in FAMILIES:
            for method in METHODS:
                finetune(root, into / f"{family}-{method.kind}", family, method, work_dir, kind)
            pretrain(root, into / f"{family}-base", family, work_dir, kind, optimizer="adamw", learning_rate=0.003)
