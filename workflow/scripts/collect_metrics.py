from retrotune.config import load_config
from retrotune.log import stage_log
from retrotune.report.collect import collect_metrics

with stage_log(snakemake.log[0]):
    collect_metrics(load_config(snakemake.config), snakemake.output.csv, snakemake.output.json)
