from retrotune.runtime.lifecycle import stage_log
from retrotune.scoring.quality import measure_retrieval
from retrotune.study.stages import MeasureRetrievalParams

with stage_log(snakemake.log[0]):
    measure_retrieval(
        MeasureRetrievalParams.of(snakemake.params.uses),
        snakemake.wildcards.retrieval,
        snakemake.wildcards.dataset,
        snakemake.input.examples,
        snakemake.input.references,
        snakemake.input.passages,
        snakemake.output[0],
        embeddings=snakemake.input.get("embeddings"),
        index=snakemake.input.get("index"),
    )
