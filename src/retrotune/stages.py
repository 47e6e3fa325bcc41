"""Versions of the stages of the workflow.

Snakemake does not see changes inside the package: every rule passes its stage's version in `params`, and raising the
number here reruns what the rule made. Raise it when a stage's output changes for the same input.
"""

STAGE_VERSIONS: dict[str, int] = {
    "write_world": 1,
    "download_source": 1,
    "prepare_examples": 2,
    "chunk_corpus": 1,
    "train_tokenizer": 1,
    "embed_passages": 3,
    "build_index": 2,
    "cache_neighbors": 1,
    "cache_pretraining_neighbors": 2,
    "measure_retrieval": 1,
    "pretrain_model": 1,
    "retrofit_model": 1,
    "fetch_model": 2,
    "convert_model": 1,
    "finetune_cell": 2,
    "predict_cell": 4,
    "score_cell": 4,
    "collect_metrics": 2,
    "make_tables": 2,
    "plot_scaling": 1,
    "report_retrieval": 1,
}
