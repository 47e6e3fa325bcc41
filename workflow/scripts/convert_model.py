from pathlib import Path

from retrotune.models.convert import convert_model
from retrotune.runtime.lifecycle import stage_log
from retrotune.study.config import load_config
from retrotune.study.stages import ConvertParams

with stage_log(snakemake.log[0]):
    convert_model(
        ConvertParams.of(snakemake.params.uses),
        Path(snakemake.output[0]).parent,
        snakemake.params.packages,
        snakemake.wildcards.model,
        load_config(snakemake.config).max_length,
    )
