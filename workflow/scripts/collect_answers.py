from retrotune.report.gathering.answers import collect_answers
from retrotune.runtime.lifecycle import stage_log
from retrotune.study.config import load_config
from retrotune.study.paths import Paths
from retrotune.study.stages import CollectAnswersParams

with stage_log(snakemake.log[0]):
    collect_answers(
        CollectAnswersParams.of(snakemake.params.uses),
        Paths.of(load_config(snakemake.config)),
        snakemake.input.results,
        snakemake.output[0],
    )
