import json
from pathlib import Path

from retrotune.log import stage_log
from retrotune.models.fetch import fetch_model

with stage_log(snakemake.log[0]):
    fetch_model(Path(snakemake.output[0]).parent, **json.loads(snakemake.params.model))
