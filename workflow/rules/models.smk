# Base models: trained here, retrofitted from others, fetched from the hub, copied from a folder, or converted from a checkpoint.


rule pretrain_model:
    input:
        unpack(pretraining_inputs),
    output:
        PATHS.model_manifest("{model}"),
    log:
        PATHS.log("pretrain_model/{model}.log"),
    benchmark:
        PATHS.log("pretrain_model/{model}.benchmark.tsv")
    wildcard_constraints:
        model=models_from("pretraining"),
    # cells wait for base models, so these start before anything else that is ready
    priority: 10
    conda:
        ENV
    threads: cpus()
    resources:
        **ask(training=True),
    params:
        model=pretraining_params,
        root=CONFIG.raw,
        work=PATHS.model_work("{model}"),
        version=version("pretrain_model"),
    script:
        "../scripts/pretrain_model.py"


rule retrofit_model:
    input:
        unpack(retrofitting_inputs),
    output:
        PATHS.model_manifest("{model}"),
    log:
        PATHS.log("retrofit_model/{model}.log"),
    benchmark:
        PATHS.log("retrofit_model/{model}.benchmark.tsv")
    wildcard_constraints:
        model=models_from("retrofit_from"),
    priority: 10
    conda:
        ENV
    threads: cpus()
    resources:
        **ask(training=True),
    params:
        model=retrofitting_params,
        root=CONFIG.raw,
        work=PATHS.model_work("{model}"),
        version=version("retrofit_model"),
    script:
        "../scripts/retrofit_model.py"


rule fetch_model:
    output:
        PATHS.model_manifest("{model}"),
    log:
        PATHS.log("fetch_model/{model}.log"),
    wildcard_constraints:
        model=f"{models_from('hub')}|{models_from('path')}",
    conda:
        ENV
    params:
        model=lambda wildcards: dump(
            {key: getattr(CONFIG.models[wildcards.model], key) for key in ("hub", "path", "trust_remote_code")}
        ),
        version=version("fetch_model"),
    script:
        "../scripts/fetch_model.py"


rule convert_model:
    output:
        PATHS.model_manifest("{model}"),
    log:
        PATHS.log("convert_model/{model}.log"),
    wildcard_constraints:
        model=models_from("checkpoint"),
    conda:
        ENV
    threads: cpus("convert_model")
    resources:
        **ask("convert_model"),
    params:
        family=lambda wildcards: CONFIG.models[wildcards.model].family,
        checkpoint=lambda wildcards: dump(CONFIG.models[wildcards.model].checkpoint),
        packages=PATHS.packages(),
        version=version("convert_model"),
    script:
        "../scripts/convert_model.py"
