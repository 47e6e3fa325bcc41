from retrotune.report.plots import plot_scaling
from retrotune.runtime.lifecycle import stage_log

with stage_log(snakemake.log[0]):
    plot_scaling(snakemake.input.json, snakemake.input.scores, list(snakemake.output))
