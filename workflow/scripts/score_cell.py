from retrotune.runtime.lifecycle import stage_log

with stage_log(snakemake.log[0], forked=True):
    from retrotune.scoring.score import score_cell
    from retrotune.study.cells import Cell
    from retrotune.study.stages import ScoreParams

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
