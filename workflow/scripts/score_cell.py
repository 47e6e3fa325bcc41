from retrotune import warm

warm.continue_in_fork()

from retrotune.cells import Cell
from retrotune.evaluation.score import score_cell
from retrotune.log import stage_log
from retrotune.stages import ScoreParams

with stage_log(snakemake.log[0]):
    score_cell(
        ScoreParams.of(snakemake.params.uses),
        Cell.of(snakemake.wildcards),
        snakemake.input.predictions,
        snakemake.input.summary,
        snakemake.input.references,
        snakemake.input.get("trained") or None,
        snakemake.output.scores,
        snakemake.output.metrics,
    )
