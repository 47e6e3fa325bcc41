from retrotune.config import ChunkingEntry, CorpusEntry
from retrotune.corpus.chunking import chunk_corpus
from retrotune.log import stage_log

with stage_log(snakemake.log[0]):
    chunk_corpus(
        CorpusEntry.model_validate_json(snakemake.params.corpus),
        snakemake.params.root,
        ChunkingEntry.model_validate_json(snakemake.params.chunking).passage_words,
        snakemake.output[0],
    )
