# Raw files -> examples, documents and passages; the demo world; a tokenizer.


rule write_world:
    output:
        PATHS.world(),
    log:
        PATHS.log("write_world"),
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
        PATHS.log("download_source"),
    conda:
        ENV
    params:
        uses=uses("download_source"),
        root=lambda wildcards: CONFIG.raw,
    script:
        "../scripts/download_source.py"


rule prepare_train:
    input:
        needs("prepare_train", "raw"),
    output:
        examples=PATHS.examples("{dataset}", "train"),
        references=PATHS.references("{dataset}", "train"),
        documents=PATHS.documents("{dataset}", "train"),
    log:
        PATHS.log("prepare_train"),
    conda:
        ENV
    params:
        uses=uses("prepare_train"),
        root=CONFIG.raw,
    script:
        "../scripts/prepare_examples.py"


rule prepare_test:
    input:
        needs("prepare_test", "raw"),
    output:
        examples=PATHS.examples("{dataset}", "test"),
        references=PATHS.references("{dataset}", "test"),
        documents=PATHS.documents("{dataset}", "test"),
    log:
        PATHS.log("prepare_test"),
    conda:
        ENV
    params:
        uses=uses("prepare_test"),
        root=CONFIG.raw,
    script:
        "../scripts/prepare_examples.py"


rule chunk_corpus:
    input:
        raw=needs("chunk_corpus", "raw"),
        tokenizer=needs("chunk_corpus", "tokenizer"),
    output:
        PATHS.passages("{corpus}", "{chunking}"),
    log:
        PATHS.log("chunk_corpus"),
    conda:
        ENV
    threads: REQUESTS.cpus("chunk_corpus")
    resources:
        **REQUESTS.resources("chunk_corpus"),
    params:
        uses=uses("chunk_corpus"),
        root=CONFIG.raw,
    script:
        "../scripts/chunk_corpus.py"


rule chunk_documents:
    input:
        documents=PATHS.documents("{dataset}", "{split}"),
        tokenizer=needs("chunk_documents", "tokenizer"),
    output:
        PATHS.passages("{dataset}/{split}", "{chunking}"),
    log:
        PATHS.log("chunk_documents"),
    conda:
        ENV
    params:
        uses=uses("chunk_documents"),
    script:
        "../scripts/chunk_documents.py"


rule train_tokenizer:
    input:
        needs("train_tokenizer", "raw"),
    output:
        PATHS.tokenizer("{tokenizer}"),
    log:
        PATHS.log("train_tokenizer"),
    conda:
        ENV
    params:
        uses=uses("train_tokenizer"),
        root=CONFIG.raw,
    script:
        "../scripts/train_tokenizer.py"
