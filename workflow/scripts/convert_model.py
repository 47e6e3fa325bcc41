import json
from pathlib import Path

from retrotune.log import stage_log
from retrotune.models.convert import convert_checkpoint
from retrotune.models.packages import package_file

with stage_log(snakemake.log[0]):
    checkpoint = json.loads(snakemake.params.checkpoint)
    path, package = checkpoint.pop("path"), checkpoint.pop("package")
    convert_checkpoint(
        path if package is None else package_file(package, path, snakemake.params.packages),
        Path(snakemake.output[0]).parent,
        **checkpoint,
        family=snakemake.params.family,
        replace=True,
    )
