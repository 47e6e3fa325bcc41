from retrotune import warm

warm.continue_in_fork()

from pathlib import Path

from retrotune.cells import ResolvedCell
from retrotune.config import SaveEvery
from retrotune.log import stage_log
from retrotune.training.finetune import finetune_cell

with stage_log(snakemake.log[0]):
    finetune_cell(
        ResolvedCell.model_validate_json(snakemake.params.cell),
        Path(snakemake.input.model).parent,
        snakemake.input.examples,
        snakemake.input.get("neighbors") or None,
        Path(snakemake.output.train).parent,
        snakemake.params.work,
        snakemake.threads,
        SaveEvery.model_validate(snakemake.config.get("save_every") or {}),
    )
