from pathlib import Path

from retrotune.preparing.world import write_world
from retrotune.runtime.lifecycle import stage_log
from retrotune.study.stages import WriteWorldParams

with stage_log(snakemake.log[0]):
    write_world(WriteWorldParams.of(snakemake.params.uses), Path(snakemake.output[0]).parent)
