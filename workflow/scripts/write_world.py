from pathlib import Path

from retrotune.log import stage_log
from retrotune.preparing.world import write_world
from retrotune.stages import WriteWorldParams

with stage_log(snakemake.log[0]):
    write_world(WriteWorldParams.of(snakemake.params.uses), Path(snakemake.output[0]).parent)
