import json

from retrotune.errors import ModelError
from retrotune.log import stage_log

with stage_log(snakemake.log[0]):
    source = json.loads(snakemake.params.checkpoint)["path"]
    raise ModelError(
        f"{source}: this version converts no checkpoints; put a model in transformers layout into a folder and set "
        f"models.{snakemake.wildcards.model}.path to that folder instead of `checkpoint`"
    )
