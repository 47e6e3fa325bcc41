# One cell: fine-tune -> predict -> score. Scoring takes a second and runs where Snakemake runs.
# Outputs are what other rules read. A file that none reads (train_log.jsonl, config.yaml) would be deleted with a
# failed job's outputs, and not be missed when the others are seen late.


rule finetune_cell:
    input:
        model=PATHS.model_manifest("{model}"),
        examples=PATHS.examples("{dataset}", "train"),
        neighbors=lambda wildcards: neighbors_of(wildcards, "train"),
    output:
        adapter=directory(f"{CELL}/adapter"),
        train=f"{CELL}/train.json",
    log:
        PATHS.log(f"finetune_cell/{CELL_LOG}"),
    group:
        in_group("training")
    conda:
        ENV
    threads: cpus()
    resources:
        **ask(training=True),
        cell=1,
    params:
        uses=uses("finetune_cell"),
        work=WORK,
    script:
        "../scripts/finetune_cell.py"


rule predict_cell:
    input:
        adapter=adapter,
        model=PATHS.model_manifest("{model}"),
        examples=PATHS.examples("{dataset}", "test"),
        neighbors=lambda wildcards: neighbors_of(wildcards, "test"),
    output:
        predictions=f"{CELL}/predictions.jsonl",
        summary=f"{CELL}/predict.json",
    log:
        PATHS.log(f"predict_cell/{CELL_LOG}"),
    group:
        in_group("answering")
    conda:
        ENV
    threads: cpus()
    resources:
        **ask(),
        cell=1,
    params:
        uses=uses("predict_cell"),
        work=WORK,
    script:
        "../scripts/predict_cell.py"


rule score_cell:
    input:
        trained=trained,
        predictions=f"{CELL}/predictions.jsonl",
        summary=f"{CELL}/predict.json",
        references=PATHS.references("{dataset}", "test"),
    output:
        scores=f"{CELL}/scores.jsonl",
        metrics=f"{CELL}/metrics.json",
    log:
        PATHS.log(f"score_cell/{CELL_LOG}"),
    conda:
        ENV
    params:
        uses=uses("score_cell"),
    script:
        "../scripts/score_cell.py"
