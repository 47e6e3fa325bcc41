from retrotune import warm

warm.continue_in_fork()

import json
from pathlib import Path

from retrotune.config import CorpusEntry, Passages, PretrainingEntry, SaveEvery, SizeEntry
from retrotune.launching import Launch, run_stage
from retrotune.log import stage_log

with stage_log(snakemake.log[0]):
    model = json.loads(snakemake.params.model)
    run_stage(
        "retrotune.training.pretrain:pretrain_model",
        Launch.of(snakemake.resources),
        snakemake.params.work,
        snakemake.threads,
        family=model["family"],
        size=model["size"] if isinstance(model["size"], str) else SizeEntry(**model["size"]),
        pretraining=PretrainingEntry(**model["pretraining"]),
        passages=Passages(**model["passages"]) if model["passages"] else None,
        corpora={name: CorpusEntry(**entry) for name, entry in model["corpora"].items()},
        root=snakemake.params.root,
        tokenizer_json=snakemake.input.tokenizer,
        neighbors=snakemake.input.get("neighbors"),
        out_dir=Path(snakemake.output[0]).parent,
        save_every=SaveEvery.model_validate(snakemake.config.get("save_every") or {}),
    )
