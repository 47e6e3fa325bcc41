from retrotune.runtime.lifecycle import stage_log

with stage_log(snakemake.log[0], forked=True):
    from pathlib import Path

    from retrotune.runtime.asked import check_gpus
    from retrotune.runtime.launching import Launch, run_stage
    from retrotune.study.cells import Cell
    from retrotune.study.config import SaveEvery
    from retrotune.study.stages import FinetuneParams

    check_gpus(snakemake.resources)
    run_stage(
        "retrotune.training.finetune:finetune_cell",
        Launch.of(snakemake.resources),
        snakemake.params.work,
        snakemake.threads,
        params=FinetuneParams.of(snakemake.params.uses),
        cell=Cell.of(snakemake.wildcards),
        model_dir=Path(snakemake.input.model).parent,
        examples=snakemake.input.examples,
        neighbors=snakemake.input.get("neighbors") or None,
        out_dir=Path(snakemake.output.train).parent,
        save_every=SaveEvery.model_validate(snakemake.config.get("save_every") or {}),
    )
