from pathlib import Path

from retrotune.models.fetch import fetch_base_model
from retrotune.runtime.lifecycle import stage_log
from retrotune.study.stages import FetchParams

with stage_log(snakemake.log[0]):
    # the family is only checked: no parameter, as nothing is fetched again for it
    fetch_base_model(
        FetchParams.of(snakemake.params.uses),
        Path(snakemake.output[0]).parent,
        snakemake.wildcards.model,
        snakemake.config["models"][snakemake.wildcards.model]["family"],
    )
