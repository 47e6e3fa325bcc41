from retrotune.retrieval.search.index import build_index
from retrotune.runtime.lifecycle import stage_log
from retrotune.study.stages import BuildIndexParams

with stage_log(snakemake.log[0]):
    build_index(BuildIndexParams.of(snakemake.params.uses), snakemake.input[0], snakemake.output[0])
