import json

from retrotune.config import RetrieverEntry
from retrotune.evaluation.retrieval import measure_retrieval
from retrotune.log import stage_log

with stage_log(snakemake.log[0]):
    search = json.loads(snakemake.params.search)
    measure_retrieval(
        snakemake.wildcards.retrieval,
        snakemake.wildcards.dataset,
        snakemake.input.examples,
        snakemake.input.passages,
        RetrieverEntry.model_validate(search["retriever"]),
        search["depth"],
        snakemake.params.own_documents,
        search["bootstrap_samples"],
        snakemake.output[0],
        embeddings=snakemake.input.get("embeddings"),
        index=snakemake.input.get("index"),
        base=RetrieverEntry.model_validate(search["base"]) if search["base"] else None,
    )
