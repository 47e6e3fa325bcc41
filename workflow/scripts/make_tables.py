from pathlib import Path

from retrotune.log import stage_log
from retrotune.report.tables import make_tables

with stage_log(snakemake.log[0]):
    make_tables(snakemake.input[0], Path(snakemake.output.html).parent)
