from retrotune import warm

warm.continue_in_fork()

from pathlib import Path

from retrotune.cells import ResolvedCell
from retrotune.evaluation.score import score_cell
from retrotune.log import stage_log

with stage_log(snakemake.log[0]):
    score_cell(
        ResolvedCell.model_validate_json(snakemake.params.cell),
        snakemake.input.predictions,
        snakemake.input.summary,
        snakemake.input.get("trained") or None,
        snakemake.output[0],
        Path(snakemake.output[0]).with_name("config.yaml"),
        snakemake.params.work,
    )
