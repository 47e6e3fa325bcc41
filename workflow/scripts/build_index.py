from retrotune.retrieval.search.index import build_index
from retrotune.runtime.asked import check_gpus
from retrotune.runtime.lifecycle import stage_log
from retrotune.study.stages import BuildIndexParams

with stage_log(snakemake.log[0]):
    check_gpus(snakemake.resources)
    build_index(BuildIndexParams.of(snakemake.params.uses), snakemake.input[0], snakemake.output[0])
