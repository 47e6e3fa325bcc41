# One cell: fine-tune -> predict -> score. Outputs are what other rules read. A file that none reads (train_log.jsonl,
# config.yaml) would be deleted with a failed job's outputs, and not be missed when the others are seen late.


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
    conda:
        ENV
    threads: cpus()
    resources:
        **ask(),
    params:
        cell=cell_for("finetune"),
        dataset_version=lambda wildcards: dataset_version(wildcards.dataset),
        work=WORK,
        version=version("finetune_cell"),
    script:
        "../scripts/finetune_cell.py"


rule predict_cell:
    input:
        trained=trained,
        adapter=adapter,
        model=PATHS.model_manifest("{model}"),
        examples=PATHS.examples("{dataset}", "test"),
        neighbors=lambda wildcards: neighbors_of(wildcards, "test"),
    output:
        predictions=f"{CELL}/predictions.jsonl",
        summary=f"{CELL}/predict.json",
    log:
        PATHS.log(f"predict_cell/{CELL_LOG}"),
    conda:
        ENV
    threads: cpus()
    resources:
        **ask(),
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
        model=PATHS.model_manifest("{model}"),
        examples=PATHS.examples("{dataset}", "test"),
        neighbors=lambda wildcards: neighbors_of(wildcards, "test"),
        predictions=f"{CELL}/predictions.jsonl",
        summary=f"{CELL}/predict.json",
    output:
        f"{CELL}/metrics.json",
    log:
        PATHS.log(f"score_cell/{CELL_LOG}"),
    conda:
        ENV
    params:
        cell=cell_for("score"),
        version=version("score_cell"),
    script:
        "../scripts/score_cell.py"
