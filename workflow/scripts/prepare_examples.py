from retrotune.config import DatasetEntry
from retrotune.preparing.examples import prepare_examples
from retrotune.log import stage_log

with stage_log(snakemake.log[0]):
    prepare_examples(
        DatasetEntry.model_validate_json(snakemake.params.dataset),
        snakemake.params.root,
        snakemake.output.train,
        snakemake.output.test,
        snakemake.output.get("documents"),
    )
