from pathlib import Path

from retrotune.report.judging.diagnosing import diagnose_cells
from retrotune.runtime.lifecycle import stage_log
from retrotune.study.config import load_config
from retrotune.study.paths import Paths
from retrotune.study.stages import DiagnoseParams

with stage_log(snakemake.log[0]):
    diagnose_cells(
        DiagnoseParams.of(snakemake.params.uses),
        Paths.of(load_config(snakemake.config)),
        snakemake.input.results,
        snakemake.input.scores,
        snakemake.input.answers,
        Path(snakemake.output.html).parent,
    )
