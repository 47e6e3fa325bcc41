import json

from retrotune.config import RetrieverEntry
from retrotune.log import stage_log
from retrotune.retrieval.neighbors import cache_neighbors

with stage_log(snakemake.log[0]):
    search = json.loads(snakemake.params.search)
    cache_neighbors(
        snakemake.input.examples,
        snakemake.input.passages,
        RetrieverEntry.model_validate(search["retriever"]),
        search["top_k"],
        snakemake.params.own_documents,
        snakemake.output[0],
        embeddings=snakemake.input.get("embeddings"),
        index=snakemake.input.get("index"),
        continuation=search["continuation"],
        base=RetrieverEntry.model_validate(search["base"]) if search["base"] else None,
    )
