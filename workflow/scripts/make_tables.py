from pathlib import Path

from retrotune.report.tables import make_tables
from retrotune.runtime.lifecycle import stage_log

with stage_log(snakemake.log[0]):
    make_tables(snakemake.input[0], Path(snakemake.output.html).parent)
