from retrotune.retrieval.vectors.embeddings import embed_passages
from retrotune.runtime.asked import check_gpus
from retrotune.runtime.lifecycle import stage_log
from retrotune.study.stages import EmbedParams

with stage_log(snakemake.log[0]):
    check_gpus(snakemake.resources)
    embed_passages(EmbedParams.of(snakemake.params.uses), snakemake.input[0], snakemake.output[0])
