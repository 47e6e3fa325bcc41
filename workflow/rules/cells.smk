# One cell: fine-tune -> predict -> score. Scoring takes a second, so on a cluster one job predicts and scores.
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
        in_group("training", alone=True)
    conda:
        ENV
    threads: cpus()
    resources:
        **ask(training=True),
        cell=1,
    params:
        cell=cell_for("finetune"),
        dataset_version=lambda wildcards: dataset_version(wildcards.dataset),
        work=WORK,
        version=version("finetune_cell"),
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
        in_group("answering", alone=False)
    conda:
        ENV
    threads: cpus()
    resources:
        **ask(share=lambda minutes: max(minutes - SCORING_MINUTES, 1)),
        cell=1,
    params:
        cell=cell_for("predict"),
        dataset_version=lambda wildcards: dataset_version(wildcards.dataset),
        work=WORK,
        version=version("predict_cell"),
    script:
        "../scripts/predict_cell.py"


rule score_cell:
    input:
        trained=trained,
        predictions=f"{CELL}/predictions.jsonl",
        summary=f"{CELL}/predict.json",
    output:
        f"{CELL}/metrics.json",
    log:
        PATHS.log(f"score_cell/{CELL_LOG}"),
    group:
        in_group("answering", alone=False)
    conda:
        ENV
    threads: cpus()
    resources:
        **ask(share=lambda minutes: min(minutes, SCORING_MINUTES)),
        cell=1,
    params:
        cell=cell_for("score"),
        work=WORK,
        version=version("score_cell"),
    script:
        "../scripts/score_cell.py"
