# Raw files -> examples, documents and passages; the demo world; a tokenizer.


rule write_world:
    output:
        PATHS.world(),
    log:
        PATHS.log("write_world.log"),
    conda:
        ENV
    params:
        world=dump(CONFIG.world),
        version=version("write_world"),
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
        folder=lambda wildcards: download_folder(wildcards.download),
        version=version("download_source"),
    script:
        "../scripts/download_source.py"


rule prepare_examples:
    input:
        lambda wildcards: raw(CONFIG.datasets[wildcards.dataset]),
    output:
        train=PATHS.examples("{dataset}", "train"),
        test=PATHS.examples("{dataset}", "test"),
    log:
        PATHS.log("prepare_examples/{dataset}.log"),
    wildcard_constraints:
        dataset=one_of(name for name in CONFIG.datasets if is_open_domain(CONFIG, name)),
    conda:
        ENV
    params:
        dataset=lambda wildcards: dump(CONFIG.datasets[wildcards.dataset]),
        dataset_version=lambda wildcards: dataset_version(wildcards.dataset),
        root=CONFIG.raw,
        version=version("prepare_examples"),
    script:
        "../scripts/prepare_examples.py"


use rule prepare_examples as prepare_document_examples with:
    output:
        train=PATHS.examples("{dataset}", "train"),
        test=PATHS.examples("{dataset}", "test"),
        documents=PATHS.documents("{dataset}"),
    wildcard_constraints:
        dataset=one_of(name for name in CONFIG.datasets if not is_open_domain(CONFIG, name)),


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
        corpus=lambda wildcards: dump(CONFIG.corpora[wildcards.corpus]),
        chunking=lambda wildcards: dump(CONFIG.chunkings[wildcards.chunking]),
        root=CONFIG.raw,
        version=version("chunk_corpus"),
    script:
        "../scripts/chunk_corpus.py"


rule chunk_documents:
    input:
        documents=PATHS.documents("{dataset}"),
        tokenizer=tokenizer_of_chunking,
    output:
        PATHS.passages("{dataset}", "{chunking}"),
    log:
        PATHS.log("chunk_documents/{dataset}-{chunking}.log"),
    conda:
        ENV
    params:
        chunking=lambda wildcards: dump(CONFIG.chunkings[wildcards.chunking]),
        version=version("chunk_corpus"),
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
        tokenizer=lambda wildcards: dump(CONFIG.tokenizers[wildcards.tokenizer]),
        corpora=lambda wildcards: dump(
            {
                name: CONFIG.corpora[name].model_dump(mode="json")
                for name in CONFIG.tokenizers[wildcards.tokenizer].corpora
            }
        ),
        root=CONFIG.raw,
        version=version("train_tokenizer"),
    script:
        "../scripts/train_tokenizer.py"
