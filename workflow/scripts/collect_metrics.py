from retrotune.cells import Paths
from retrotune.config import load_config
from retrotune.log import stage_log
from retrotune.report.collect import collect_metrics
from retrotune.stages import CollectParams

with stage_log(snakemake.log[0]):
    collect_metrics(
        CollectParams.of(snakemake.params.uses),
        Paths.of(load_config(snakemake.config)),
        snakemake.output.csv,
        snakemake.output.json,
    )
