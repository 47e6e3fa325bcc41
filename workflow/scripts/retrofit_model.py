from retrotune import warm

warm.continue_in_fork()

import json
from pathlib import Path

from retrotune.config import CorpusEntry, Passages, RetrofittingEntry, SaveEvery
from retrotune.log import stage_log
from retrotune.training.retrofit import retrofit_model

with stage_log(snakemake.log[0]):
    model = json.loads(snakemake.params.model)
    retrofit_model(
        model["family"],
        model["source"],
        Path(snakemake.input.source).parent,
        RetrofittingEntry(**model["retrofitting"]),
        Passages(**model["passages"]) if model["passages"] else None,
        {name: CorpusEntry(**entry) for name, entry in model["corpora"].items()},
        snakemake.params.root,
        snakemake.input.get("neighbors"),
        Path(snakemake.output[0]).parent,
        snakemake.params.work,
        snakemake.threads,
        SaveEvery.model_validate(snakemake.config.get("save_every") or {}),
    )
