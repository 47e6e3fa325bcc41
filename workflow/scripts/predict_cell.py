from retrotune import warm

warm.continue_in_fork()

from pathlib import Path

from retrotune.cells import ResolvedCell
from retrotune.evaluation.generate import predict_cell
from retrotune.log import stage_log

with stage_log(snakemake.log[0]):
    predict_cell(
        ResolvedCell.model_validate_json(snakemake.params.cell),
        Path(snakemake.input.model).parent,
        snakemake.input.get("adapter") or None,
        snakemake.input.examples,
        snakemake.input.get("neighbors") or None,
        snakemake.output.predictions,
        snakemake.output.summary,
        snakemake.params.work,
        snakemake.threads,
    )
