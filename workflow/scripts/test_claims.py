from pathlib import Path

from retrotune.report.judging.claims import judge_claims
from retrotune.runtime.lifecycle import stage_log
from retrotune.study.stages import ClaimTestParams

with stage_log(snakemake.log[0]):
    judge_claims(
        ClaimTestParams.of(snakemake.params.uses),
        snakemake.input.results,
        snakemake.input.scores,
        Path(snakemake.output.html).parent,
    )
