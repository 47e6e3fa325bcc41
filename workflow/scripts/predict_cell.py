from retrotune.runtime.lifecycle import stage_log

with stage_log(snakemake.log[0], forked=True):
    from pathlib import Path

    from retrotune.prediction.generate import predict_cell
    from retrotune.runtime.asked import check_gpus
    from retrotune.study.cells import Cell
    from retrotune.study.stages import PredictParams

    check_gpus(snakemake.resources)
    predict_cell(
        PredictParams.of(snakemake.params.uses),
        Cell.of(snakemake.wildcards),
        Path(snakemake.input.model).parent,
        snakemake.input.get("adapter") or None,
        snakemake.input.examples,
        snakemake.input.get("neighbors") or None,
        snakemake.output.predictions,
        snakemake.output.summary,
        snakemake.params.work,
        snakemake.threads,
    )
