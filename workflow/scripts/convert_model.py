import json

from retrotune.errors import ModelError
from retrotune.log import stage_log

with stage_log(snakemake.log[0]):
    source = json.loads(snakemake.params.checkpoint)["path"]
    raise ModelError(
        f"{source}: this version converts no checkpoints; convert it to a folder in transformers layout "
        f"(docs/retro.md names the weights) and set models.{snakemake.wildcards.model}.path to that folder"
    )
