from retrotune.preparing.examples import prepare_examples
from retrotune.runtime.lifecycle import stage_log
from retrotune.study.stages import STAGES

with stage_log(snakemake.log[0]):
    prepare_examples(
        STAGES[snakemake.rule].of(snakemake.params.uses),
        snakemake.params.root,
        snakemake.output.examples,
        snakemake.output.references,
        snakemake.output.documents,
    )
