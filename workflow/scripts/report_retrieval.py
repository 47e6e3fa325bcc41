from pathlib import Path

from retrotune.log import stage_log
from retrotune.report.retrieval import report_retrieval

with stage_log(snakemake.log[0]):
    report_retrieval(
        list(snakemake.input), Path(snakemake.output.html).parent, Path(snakemake.output.svg).with_suffix("")
    )
