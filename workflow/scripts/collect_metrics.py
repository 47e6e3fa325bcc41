from retrotune.report.gathering.collect import collect_metrics
from retrotune.runtime.lifecycle import stage_log
from retrotune.study.config import load_config
from retrotune.study.paths import Paths
from retrotune.study.stages import CollectParams

with stage_log(snakemake.log[0]):
    collect_metrics(
        CollectParams.of(snakemake.params.uses),
        Paths.of(load_config(snakemake.config)),
        snakemake.output.csv,
        snakemake.output.json,
        snakemake.output.scores,
    )
