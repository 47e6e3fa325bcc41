from pathlib import Path

from retrotune.models.fetch import fetch_base_model
from retrotune.runtime.lifecycle import stage_log
from retrotune.study.config import load_config
from retrotune.study.stages import FetchParams

with stage_log(snakemake.log[0]):
    # family and length are only checked: no parameters, as nothing is fetched again for them
    config, name = load_config(snakemake.config), snakemake.wildcards.model
    fetch_base_model(
        FetchParams.of(snakemake.params.uses),
        Path(snakemake.output[0]).parent,
        name,
        config.models[name].family,
        config.max_length,
    )
