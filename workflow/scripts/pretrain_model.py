from retrotune.runtime.lifecycle import stage_log

with stage_log(snakemake.log[0], forked=True):
    from pathlib import Path

    from retrotune.runtime.asked import check_gpus
    from retrotune.runtime.launching import Launch, run_stage
    from retrotune.study.config import SaveEvery
    from retrotune.study.stages import PretrainParams

    check_gpus(snakemake.resources)
    run_stage(
        "retrotune.training.pretrain:pretrain_model",
        Launch.of(snakemake.resources),
        snakemake.params.work,
        snakemake.threads,
        params=PretrainParams.of(snakemake.params.uses),
        root=snakemake.params.root,
        tokenizer_json=snakemake.input.tokenizer,
        neighbors=snakemake.input.get("neighbors"),
        out_dir=Path(snakemake.output[0]).parent,
        save_every=SaveEvery.model_validate(snakemake.config.get("save_every") or {}),
    )
