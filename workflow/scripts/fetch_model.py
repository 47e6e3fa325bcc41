from pathlib import Path

from retrotune.models.fetch import fetch_base_model
from retrotune.runtime.lifecycle import stage_log
from retrotune.study.stages import FetchParams

with stage_log(snakemake.log[0]):
    fetch_base_model(FetchParams.of(snakemake.params.uses), Path(snakemake.output[0]).parent)
