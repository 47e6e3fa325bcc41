from retrotune.runtime import warm

warm.continue_in_fork()

from retrotune.runtime.lifecycle import stage_log
from retrotune.scoring.score import score_cell
from retrotune.study.cells import Cell
from retrotune.study.stages import ScoreParams

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
