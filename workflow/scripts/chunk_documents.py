from retrotune.config import ChunkingEntry
from retrotune.preparing.chunking import chunk_documents, cut_of
from retrotune.log import stage_log

with stage_log(snakemake.log[0]):
    chunk_documents(
        snakemake.input.documents,
        cut_of(ChunkingEntry.model_validate_json(snakemake.params.chunking), snakemake.input.get("tokenizer")),
        snakemake.output[0],
    )
