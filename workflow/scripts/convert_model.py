from pathlib import Path

from retrotune.log import stage_log
from retrotune.models.convert import convert_model
from retrotune.stages import ConvertParams

with stage_log(snakemake.log[0]):
    convert_model(ConvertParams.of(snakemake.params.uses), Path(snakemake.output[0]).parent, snakemake.params.packages)
