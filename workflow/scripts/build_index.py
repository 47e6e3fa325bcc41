from retrotune.config import IndexEntry
from retrotune.log import stage_log
from retrotune.retrieval.index import build_index

with stage_log(snakemake.log[0]):
    build_index(snakemake.input[0], IndexEntry.model_validate_json(snakemake.params.index), snakemake.output[0])
