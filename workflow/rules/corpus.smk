# Raw files -> examples, documents and passages; the demo world; a tokenizer.


rule write_world:
    output:
        PATHS.world(),
    params:
        world=dump(CONFIG.world),
        version=version("write_world"),
    log:
        PATHS.log("write_world.log"),
    conda:
        ENV
    script:
        "../scripts/write_world.py"


rule download_source:
    output:
        PATHS.downloaded("{reader}", "{layout}"),
    params:
        version=version("download_source"),
    log:
        PATHS.log("download_source/{reader}-{layout}.log"),
    conda:
        ENV
    script:
        "../scripts/download_source.py"


rule prepare_examples:
    input:
        lambda wildcards: raw(CONFIG.datasets[wildcards.dataset]),
    output:
        train=PATHS.examples("{dataset}", "train"),
        test=PATHS.examples("{dataset}", "test"),
        documents=PATHS.documents("{dataset}"),
    params:
        dataset=lambda wildcards: dump(CONFIG.datasets[wildcards.dataset]),
        root=CONFIG.raw,
        version=version("prepare_examples"),
    log:
        PATHS.log("prepare_examples/{dataset}.log"),
    conda:
        ENV
    script:
        "../scripts/prepare_examples.py"


rule chunk_corpus:
    input:
        lambda wildcards: raw(CONFIG.corpora[wildcards.corpus]),
    output:
        PATHS.passages("{corpus}", "{chunking}"),
    params:
        corpus=lambda wildcards: dump(CONFIG.corpora[wildcards.corpus]),
        chunking=lambda wildcards: dump(CONFIG.chunkings[wildcards.chunking]),
        root=CONFIG.raw,
        version=version("chunk_corpus"),
    log:
        PATHS.log("chunk_corpus/{corpus}-{chunking}.log"),
    conda:
        ENV
    script:
        "../scripts/chunk_corpus.py"


rule chunk_documents:
    input:
        PATHS.documents("{dataset}"),
    output:
        PATHS.passages("{dataset}", "{chunking}"),
    params:
        chunking=lambda wildcards: dump(CONFIG.chunkings[wildcards.chunking]),
        version=version("chunk_corpus"),
    log:
        PATHS.log("chunk_documents/{dataset}-{chunking}.log"),
    conda:
        ENV
    script:
        "../scripts/chunk_documents.py"


rule train_tokenizer:
    input:
        lambda wildcards: [
            path for name in CONFIG.tokenizers[wildcards.tokenizer].corpora for path in raw(CONFIG.corpora[name])
        ],
    output:
        PATHS.tokenizer("{tokenizer}"),
    params:
        tokenizer=lambda wildcards: dump(CONFIG.tokenizers[wildcards.tokenizer]),
        corpora=lambda wildcards: dump(
            {
                name: CONFIG.corpora[name].model_dump(mode="json")
                for name in CONFIG.tokenizers[wildcards.tokenizer].corpora
            }
        ),
        root=CONFIG.raw,
        version=version("train_tokenizer"),
    log:
        PATHS.log("train_tokenizer/{tokenizer}.log"),
    conda:
        ENV
    script:
        "../scripts/train_tokenizer.py"
