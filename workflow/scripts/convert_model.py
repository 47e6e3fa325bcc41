import json
from pathlib import Path

from retrotune.log import stage_log
from retrotune.models.convert import convert_checkpoint

with stage_log(snakemake.log[0]):
    checkpoint = json.loads(snakemake.params.checkpoint)
    convert_checkpoint(
        checkpoint.pop("path"),
        Path(snakemake.output[0]).parent,
        **checkpoint,
        family=snakemake.params.family,
        replace=True,
    )
