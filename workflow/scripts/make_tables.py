from pathlib import Path

from retrotune.report.tables.making import make_tables
from retrotune.runtime.lifecycle import stage_log
from retrotune.study.stages import MakeTablesParams

with stage_log(snakemake.log[0]):
    make_tables(
        MakeTablesParams.of(snakemake.params.uses),
        snakemake.input.json,
        snakemake.input.scores,
        Path(snakemake.output.html).parent,
    )
