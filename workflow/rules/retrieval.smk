# Passages -> vectors -> index -> neighbor caches.


rule embed_passages:
    input:
        PATHS.passages("{source}", "{chunking}"),
    output:
        PATHS.embeddings("{retriever}", "{source}", "{chunking}"),
    log:
        PATHS.log("embed_passages/{retriever}-{source}-{chunking}.log"),
    benchmark:
        PATHS.log("embed_passages/{retriever}-{source}-{chunking}.benchmark.tsv")
    conda:
        ENV
    threads: cpus("embed_passages")
    resources:
        **ask("embed_passages"),
    params:
        retriever=lambda wildcards: dump(CONFIG.retrievers[wildcards.retriever]),
        version=version("embed_passages"),
    script:
        "../scripts/embed_passages.py"


rule build_index:
    input:
        PATHS.embeddings("{retriever}", "{source}", "{chunking}"),
    output:
        PATHS.index("{retriever}", "{source}", "{chunking}", "{index}"),
    log:
        PATHS.log("build_index/{retriever}-{source}-{chunking}-{index}.log"),
    conda:
        ENV
    threads: cpus("build_index")
    resources:
        **ask("build_index"),
    params:
        index=lambda wildcards: dump(CONFIG.indexes[wildcards.index]),
        version=version("build_index"),
    script:
        "../scripts/build_index.py"


rule cache_neighbors:
    input:
        unpack(
            lambda wildcards: vectors_of(
                wildcards.retrieval, CONFIG.dataset_source(wildcards.dataset, wildcards.retrieval)
            )
        ),
        examples=PATHS.examples("{dataset}", "{split}"),
        passages=lambda wildcards: passages_of(wildcards.retrieval, wildcards.dataset),
    output:
        PATHS.neighbors("{retrieval}", "{dataset}", "{split}"),
    log:
        PATHS.log("cache_neighbors/{retrieval}-{dataset}-{split}.log"),
    conda:
        ENV
    threads: cpus("cache_neighbors")
    resources:
        **ask("cache_neighbors"),
    params:
        search=lambda wildcards: search_params(wildcards.retrieval),
        own_documents=lambda wildcards: not is_open_domain(CONFIG, wildcards.dataset),
        version=version("cache_neighbors"),
    script:
        "../scripts/cache_neighbors.py"


rule measure_retrieval:
    input:
        unpack(
            lambda wildcards: vectors_of(
                wildcards.retrieval, CONFIG.dataset_source(wildcards.dataset, wildcards.retrieval)
            )
        ),
        examples=PATHS.examples("{dataset}", "test"),
        passages=lambda wildcards: passages_of(wildcards.retrieval, wildcards.dataset),
    output:
        PATHS.quality("{retrieval}", "{dataset}"),
    log:
        PATHS.log("measure_retrieval/{retrieval}-{dataset}.log"),
    conda:
        ENV
    params:
        search=lambda wildcards: search_params(
            wildcards.retrieval,
            depth=measured_depth(wildcards.retrieval),
            bootstrap_samples=CONFIG.evaluation.bootstrap_samples,
        ),
        own_documents=lambda wildcards: not is_open_domain(CONFIG, wildcards.dataset),
        version=version("measure_retrieval"),
    script:
        "../scripts/measure_retrieval.py"


rule cache_pretraining_neighbors:
    input:
        unpack(pretraining_search),
    output:
        PATHS.pretraining_neighbors("{pretraining}", "{chunk_length}"),
    log:
        PATHS.log("cache_pretraining_neighbors/{pretraining}-{chunk_length}.log"),
    wildcard_constraints:
        chunk_length=r"\d+",
    conda:
        ENV
    threads: cpus("cache_pretraining_neighbors")
    resources:
        **ask("cache_pretraining_neighbors"),
    params:
        search=lambda wildcards: search_params(CONFIG.pretrainings[wildcards.pretraining].retrieval),
        source=lambda wildcards: CONFIG.retrievals[CONFIG.pretrainings[wildcards.pretraining].retrieval].corpus,
        neighbors_per=lambda wildcards: CONFIG.pretrainings[wildcards.pretraining].neighbors_per,
        corpora=lambda wildcards: dump(corpora_of(CONFIG.pretrainings[wildcards.pretraining])),
        root=CONFIG.raw,
        version=version("cache_pretraining_neighbors"),
    script:
        "../scripts/cache_pretraining_neighbors.py"


use rule cache_pretraining_neighbors as cache_retrofitting_neighbors with:
    input:
        unpack(retrofitting_search),
    output:
        PATHS.retrofitting_neighbors("{retrofitting}", "{model}", "{chunk_length}"),
    log:
        PATHS.log("cache_retrofitting_neighbors/{retrofitting}-{model}-{chunk_length}.log"),
    # it wants all cores: before the GPT arm, which needs no neighbors, takes one of them for long
    priority: 20
    params:
        search=lambda wildcards: search_params(CONFIG.retrofittings[wildcards.retrofitting].retrieval),
        source=lambda wildcards: CONFIG.retrievals[CONFIG.retrofittings[wildcards.retrofitting].retrieval].corpus,
        neighbors_per=lambda wildcards: CONFIG.retrofittings[wildcards.retrofitting].neighbors_per,
        corpora=lambda wildcards: dump(corpora_of(CONFIG.retrofittings[wildcards.retrofitting])),
        root=CONFIG.raw,
        version=version("cache_pretraining_neighbors"),
