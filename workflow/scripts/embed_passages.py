from retrotune.config import RetrieverEntry
from retrotune.log import stage_log
from retrotune.retrieval.embeddings import embed_passages

with stage_log(snakemake.log[0]):
    embed_passages(
        snakemake.input[0],
        RetrieverEntry.model_validate_json(snakemake.params.retriever),
        snakemake.output[0],
    )
