import json
from pathlib import Path

from retrotune.config import CorpusEntry, RetrieverEntry
from retrotune.log import stage_log
from retrotune.retrieval.pretraining import cache_pretraining_neighbors

with stage_log(snakemake.log[0]):
    search = json.loads(snakemake.params.search)
    corpora = json.loads(snakemake.params.corpora)
    cache_pretraining_neighbors(
        {name: CorpusEntry.model_validate(entry) for name, entry in corpora.items()},
        snakemake.params.root,
        snakemake.input.passages,
        snakemake.params.source,
        snakemake.input.get("tokenizer") or Path(snakemake.input.model).with_name("tokenizer.json"),
        int(snakemake.wildcards.chunk_length),
        RetrieverEntry.model_validate(search["retriever"]),
        search["top_k"],
        snakemake.output[0],
        embeddings=snakemake.input.get("embeddings"),
        index=snakemake.input.get("index"),
        continuation=search["continuation"],
        base=RetrieverEntry.model_validate(search["base"]) if search["base"] else None,
    )
