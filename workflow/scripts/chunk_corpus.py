from retrotune.config import ChunkingEntry, CorpusEntry
from retrotune.preparing.chunking import chunk_corpus, cut_of
from retrotune.log import stage_log

with stage_log(snakemake.log[0]):
    chunk_corpus(
        CorpusEntry.model_validate_json(snakemake.params.corpus),
        snakemake.params.root,
        cut_of(ChunkingEntry.model_validate_json(snakemake.params.chunking), snakemake.input.get("tokenizer")),
        snakemake.output[0],
    )
