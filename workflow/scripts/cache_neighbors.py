from retrotune.retrieval.caches.questions import cache_neighbors
from retrotune.runtime.lifecycle import stage_log
from retrotune.study.stages import CacheNeighborsParams

with stage_log(snakemake.log[0]):
    cache_neighbors(
        CacheNeighborsParams.of(snakemake.params.uses),
        snakemake.input.examples,
        snakemake.input.passages,
        snakemake.output[0],
        references=snakemake.input.get("references"),
        embeddings=snakemake.input.get("embeddings"),
        index=snakemake.input.get("index"),
    )
