from retrotune.retrieval.caches.questions import cache_neighbors
from retrotune.runtime.asked import check_gpus
from retrotune.runtime.lifecycle import stage_log
from retrotune.study.stages import CacheNeighborsParams

with stage_log(snakemake.log[0]):
    check_gpus(snakemake.resources)
    cache_neighbors(
        CacheNeighborsParams.of(snakemake.params.uses),
        snakemake.input.examples,
        snakemake.input.passages,
        snakemake.output[0],
        references=snakemake.input.get("references"),
        embeddings=snakemake.input.get("embeddings"),
        index=snakemake.input.get("index"),
    )
