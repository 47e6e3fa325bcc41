from pathlib import Path

from retrotune.report.page.writing import write_report
from retrotune.runtime.lifecycle import stage_log
from retrotune.study.config import load_config
from retrotune.study.paths import Paths
from retrotune.study.stages import WriteReportParams

with stage_log(snakemake.log[0]):
    write_report(
        WriteReportParams.of(snakemake.params.uses),
        Paths.of(load_config(snakemake.config)),
        Path(snakemake.output[0]).parent,
        snakemake.output[0],
    )
