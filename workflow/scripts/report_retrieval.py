from pathlib import Path

from retrotune.report.retrieval_quality import report_retrieval
from retrotune.runtime.lifecycle import stage_log

with stage_log(snakemake.log[0]):
    report_retrieval(list(snakemake.input), Path(snakemake.output.html).parent, Path(snakemake.output.svg).parent)
