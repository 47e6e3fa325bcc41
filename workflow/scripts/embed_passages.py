from retrotune.log import stage_log
from retrotune.retrieval.embeddings import embed_passages
from retrotune.stages import EmbedParams

with stage_log(snakemake.log[0]):
    embed_passages(EmbedParams.of(snakemake.params.uses), snakemake.input[0], snakemake.output[0])
