from pathlib import Path

from retrotune.retrieval.caches.texts import cache_pretraining_neighbors
from retrotune.runtime.asked import check_gpus
from retrotune.runtime.lifecycle import stage_log
from retrotune.study.stages import CacheTextNeighborsParams

with stage_log(snakemake.log[0]):
    check_gpus(snakemake.resources)
    cache_pretraining_neighbors(
        CacheTextNeighborsParams.of(snakemake.params.uses),
        snakemake.params.root,
        snakemake.input.passages,
        snakemake.input.get("tokenizer") or Path(snakemake.input.model).with_name("tokenizer.json"),
        int(snakemake.wildcards.chunk_length),
        snakemake.output[0],
        embeddings=snakemake.input.get("embeddings"),
        index=snakemake.input.get("index"),
    )
