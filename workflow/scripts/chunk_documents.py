from retrotune.preparing.chunking import chunk_documents
from retrotune.runtime.lifecycle import stage_log
from retrotune.study.stages import ChunkParams

with stage_log(snakemake.log[0]):
    chunk_documents(
        ChunkParams.of(snakemake.params.uses),
        snakemake.input.documents,
        snakemake.output[0],
        snakemake.input.get("tokenizer"),
    )
