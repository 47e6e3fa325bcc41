from pathlib import Path

from retrotune.config import World
from retrotune.preparing.world import write_world
from retrotune.log import stage_log

with stage_log(snakemake.log[0]):
    write_world(Path(snakemake.output[0]).parent, World.model_validate_json(snakemake.params.world))
