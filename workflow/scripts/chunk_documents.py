from retrotune.config import ChunkingEntry
from retrotune.corpus.chunking import chunk_documents
from retrotune.log import stage_log

with stage_log(snakemake.log[0]):
    chunk_documents(
        snakemake.input[0],
        ChunkingEntry.model_validate_json(snakemake.params.chunking).passage_words,
        snakemake.output[0],
    )
