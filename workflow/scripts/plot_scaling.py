from retrotune.log import stage_log
from retrotune.report.plots import plot_scaling

with stage_log(snakemake.log[0]):
    plot_scaling(snakemake.input[0], list(snakemake.output))
