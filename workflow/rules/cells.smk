# One cell: fine-tune -> predict -> score. Scoring takes a second and runs where Snakemake runs.
# Outputs are what other rules read. A file that none reads (train_log.jsonl, config.yaml) would be deleted with a
# failed job's outputs, and not be missed when the others are seen late.


rule finetune_cell:
    input:
        model=PATHS.model_manifest("{model}"),
        examples=PATHS.examples("{dataset}", "train"),
        neighbors=needs("finetune_cell", "neighbors"),
    output:
        adapter=directory(f"{CELL}/adapter"),
        train=f"{CELL}/train.json",
    log:
        PATHS.log("finetune_cell"),
    group:
        in_group("training")
    conda:
        ENV
    threads: REQUESTS.cpus()
    resources:
        **REQUESTS.of_training(),
        cell=1,
    params:
        uses=uses("finetune_cell"),
        work=WORK,
    script:
        "../scripts/finetune_cell.py"


rule predict_cell:
    input:
        adapter=needs("predict_cell", "adapter"),
        model=PATHS.model_manifest("{model}"),
        examples=PATHS.examples("{dataset}", "test"),
        neighbors=needs("predict_cell", "neighbors"),
    output:
        predictions=f"{CELL}/predictions.jsonl",
        summary=f"{CELL}/predict.json",
    log:
        PATHS.log("predict_cell"),
    group:
        in_group("answering")
    conda:
        ENV
    threads: REQUESTS.cpus()
    resources:
        **REQUESTS.resources(),
        cell=1,
    params:
        uses=uses("predict_cell"),
        work=WORK,
    script:
        "../scripts/predict_cell.py"


rule score_cell:
    input:
        trained=needs("score_cell", "trained"),
        predictions=f"{CELL}/predictions.jsonl",
        summary=f"{CELL}/predict.json",
        references=PATHS.references("{dataset}", "test"),
    output:
        scores=f"{CELL}/scores.jsonl",
        metrics=f"{CELL}/metrics.json",
    log:
        PATHS.log("score_cell"),
    conda:
        ENV
    params:
        uses=uses("score_cell"),
    script:
        "../scripts/score_cell.py"
