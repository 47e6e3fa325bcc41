from retrotune.preparing.chunking import chunk_corpus
from retrotune.runtime.lifecycle import stage_log
from retrotune.study.stages import ChunkCorpusParams

with stage_log(snakemake.log[0]):
    chunk_corpus(
        ChunkCorpusParams.of(snakemake.params.uses),
        snakemake.params.root,
        snakemake.output[0],
        snakemake.input.get("tokenizer"),
    )
