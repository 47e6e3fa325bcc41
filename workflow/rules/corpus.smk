# Raw files -> examples, documents and passages; the demo world; a tokenizer.


rule write_world:
    output:
        PATHS.world(),
    log:
        PATHS.log("write_world.log"),
    conda:
        ENV
    params:
        uses=uses("write_world"),
    script:
        "../scripts/write_world.py"


rule download_source:
    output:
        PATHS.downloaded("{download}"),
    log:
        PATHS.log("download_source/{download}.log"),
    conda:
        ENV
    params:
        uses=uses("download_source"),
        root=lambda wildcards: CONFIG.raw,
    script:
        "../scripts/download_source.py"


rule prepare_train:
    input:
        lambda wildcards: raw(CONFIG.datasets[wildcards.dataset], "train"),
    output:
        examples=PATHS.examples("{dataset}", "train"),
        references=PATHS.references("{dataset}", "train"),
        documents=PATHS.documents("{dataset}", "train"),
    log:
        PATHS.log("prepare_train/{dataset}.log"),
    conda:
        ENV
    params:
        uses=uses("prepare_train"),
        root=CONFIG.raw,
    script:
        "../scripts/prepare_examples.py"


rule prepare_test:
    input:
        lambda wildcards: raw(CONFIG.datasets[wildcards.dataset], "test"),
    output:
        examples=PATHS.examples("{dataset}", "test"),
        references=PATHS.references("{dataset}", "test"),
        documents=PATHS.documents("{dataset}", "test"),
    log:
        PATHS.log("prepare_test/{dataset}.log"),
    conda:
        ENV
    params:
        uses=uses("prepare_test"),
        root=CONFIG.raw,
    script:
        "../scripts/prepare_examples.py"


rule chunk_corpus:
    input:
        raw=lambda wildcards: raw(CONFIG.corpora[wildcards.corpus]),
        tokenizer=tokenizer_of_chunking,
    output:
        PATHS.passages("{corpus}", "{chunking}"),
    log:
        PATHS.log("chunk_corpus/{corpus}-{chunking}.log"),
    conda:
        ENV
    threads: cpus("chunk_corpus")
    resources:
        **ask("chunk_corpus"),
    params:
        uses=uses("chunk_corpus"),
        root=CONFIG.raw,
    script:
        "../scripts/chunk_corpus.py"


rule chunk_documents:
    input:
        documents=PATHS.documents("{dataset}", "{split}"),
        tokenizer=tokenizer_of_chunking,
    output:
        PATHS.passages("{dataset}/{split}", "{chunking}"),
    log:
        PATHS.log("chunk_documents/{dataset}-{split}-{chunking}.log"),
    conda:
        ENV
    params:
        uses=uses("chunk_documents"),
    script:
        "../scripts/chunk_documents.py"


rule train_tokenizer:
    input:
        lambda wildcards: [
            path for name in CONFIG.tokenizers[wildcards.tokenizer].corpora for path in raw(CONFIG.corpora[name])
        ],
    output:
        PATHS.tokenizer("{tokenizer}"),
    log:
        PATHS.log("train_tokenizer/{tokenizer}.log"),
    conda:
        ENV
    params:
        uses=uses("train_tokenizer"),
        root=CONFIG.raw,
    script:
        "../scripts/train_tokenizer.py"
