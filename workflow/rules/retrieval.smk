# Passages -> vectors -> index -> neighbor caches.


rule embed_passages:
    input:
        PATHS.passages("{source}", "{chunking}"),
    output:
        PATHS.embeddings("{retriever}", "{source}", "{chunking}"),
    log:
        PATHS.log("embed_passages"),
    benchmark:
        PATHS.benchmark("embed_passages")
    conda:
        ENV
    threads: REQUESTS.cpus("embed_passages")
    resources:
        **REQUESTS.resources("embed_passages"),
    params:
        uses=uses("embed_passages"),
    script:
        "../scripts/embed_passages.py"


rule build_index:
    input:
        PATHS.embeddings("{retriever}", "{source}", "{chunking}"),
    output:
        PATHS.index("{retriever}", "{source}", "{chunking}", "{index}"),
    log:
        PATHS.log("build_index"),
    conda:
        ENV
    threads: REQUESTS.cpus("build_index")
    resources:
        **REQUESTS.resources("build_index"),
    params:
        uses=uses("build_index"),
    script:
        "../scripts/build_index.py"


rule cache_neighbors:
    input:
        unpack(needs("cache_neighbors")),
    output:
        PATHS.neighbors("{retrieval}", "{dataset}", "{split}"),
    log:
        PATHS.log("cache_neighbors"),
    conda:
        ENV
    threads: REQUESTS.cpus("cache_neighbors")
    resources:
        **REQUESTS.resources("cache_neighbors"),
    params:
        uses=uses("cache_neighbors"),
    script:
        "../scripts/cache_neighbors.py"


rule measure_retrieval:
    input:
        unpack(needs("measure_retrieval")),
    output:
        PATHS.quality("{retrieval}", "{dataset}"),
    log:
        PATHS.log("measure_retrieval"),
    conda:
        ENV
    params:
        uses=uses("measure_retrieval"),
    script:
        "../scripts/measure_retrieval.py"


rule cache_pretraining_neighbors:
    input:
        unpack(needs("cache_pretraining_neighbors")),
    output:
        PATHS.pretraining_neighbors("{pretraining}", "{chunk_length}"),
    log:
        PATHS.log("cache_pretraining_neighbors"),
    wildcard_constraints:
        chunk_length=r"\d+",
    conda:
        ENV
    threads: REQUESTS.cpus("cache_pretraining_neighbors")
    resources:
        **REQUESTS.resources("cache_pretraining_neighbors"),
    params:
        uses=uses("cache_pretraining_neighbors"),
        root=CONFIG.raw,
    script:
        "../scripts/cache_pretraining_neighbors.py"


use rule cache_pretraining_neighbors as cache_retrofitting_neighbors with:
    input:
        unpack(needs("cache_retrofitting_neighbors")),
    output:
        PATHS.retrofitting_neighbors("{retrofitting}", "{model}", "{chunk_length}"),
    log:
        PATHS.log("cache_retrofitting_neighbors"),
    # it wants all cores: before the GPT arm, which needs no neighbors, takes one of them for long
    priority: 20
    params:
        uses=uses("cache_pretraining_neighbors"),
        root=CONFIG.raw,
