"""Versions of the stages of the workflow.

Snakemake does not see changes inside the package: every rule passes its stage's version in `params`, and raising the
number here reruns what the rule made. Raise it when a stage's output changes for the same input.
"""

STAGE_VERSIONS: dict[str, int] = {
    "write_world": 1,
    "download_source": 1,
    "prepare_examples": 1,
    "chunk_corpus": 1,
    "train_tokenizer": 1,
    "embed_passages": 1,
    "build_index": 1,
    "cache_neighbors": 1,
    "cache_pretraining_neighbors": 1,
    "pretrain_model": 1,
    "fetch_model": 1,
    "convert_model": 1,
    "finetune_cell": 1,
    "predict_cell": 1,
    "score_cell": 1,
    "collect_metrics": 1,
    "make_tables": 1,
    "plot_scaling": 1,
}
