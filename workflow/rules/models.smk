# Base models: trained here, retrofitted from others, fetched from the hub, copied from a folder, or converted from a checkpoint.


rule pretrain_model:
    input:
        unpack(needs("pretrain_model")),
    output:
        PATHS.model_manifest("{model}"),
    log:
        PATHS.log("pretrain_model"),
    benchmark:
        PATHS.benchmark("pretrain_model")
    wildcard_constraints:
        model=models_of("pretrain_model"),
    # cells wait for base models, so these start before anything else that is ready
    priority: 10
    conda:
        ENV
    threads: REQUESTS.cpus()
    resources:
        **REQUESTS.of_training(),
    params:
        uses=uses("pretrain_model"),
        root=CONFIG.raw,
        work=PATHS.model_work("{model}"),
    script:
        "../scripts/pretrain_model.py"


rule retrofit_model:
    input:
        unpack(needs("retrofit_model")),
    output:
        PATHS.model_manifest("{model}"),
    log:
        PATHS.log("retrofit_model"),
    benchmark:
        PATHS.benchmark("retrofit_model")
    wildcard_constraints:
        model=models_of("retrofit_model"),
    priority: 10
    conda:
        ENV
    threads: REQUESTS.cpus()
    resources:
        **REQUESTS.of_training(),
    params:
        uses=uses("retrofit_model"),
        root=CONFIG.raw,
        work=PATHS.model_work("{model}"),
    script:
        "../scripts/retrofit_model.py"


rule fetch_model:
    output:
        PATHS.model_manifest("{model}"),
    log:
        PATHS.log("fetch_model"),
    wildcard_constraints:
        model=models_of("fetch_model"),
    conda:
        ENV
    params:
        uses=uses("fetch_model"),
    script:
        "../scripts/fetch_model.py"


rule convert_model:
    output:
        PATHS.model_manifest("{model}"),
    log:
        PATHS.log("convert_model"),
    wildcard_constraints:
        model=models_of("convert_model"),
    conda:
        ENV
    threads: REQUESTS.cpus("convert_model")
    resources:
        **REQUESTS.resources("convert_model"),
    params:
        uses=uses("convert_model"),
        packages=PATHS.packages(),
    script:
        "../scripts/convert_model.py"
