"""A study that uses every section, the jobs that it needs, and for each field a second value and the stages it changes.

`ROWS` maps the place of a value in `STUDY` to another valid value and to the stages that use it, as words. Stages that
merely read what another stage made are not among them: Snakemake sees that the file is another one.
"""

import copy
from collections.abc import Iterator
from typing import Any

from retrotune.methods import METHODS
from retrotune.study.artifacts import Artifacts
from retrotune.study.config import Config, RuleResources
from retrotune.study.paths import REPORT_STAGES

STUDY: dict[str, Any] = {
    "study": "rich",
    "world": {},
    "datasets": {
        "open": {"reader": "nq", "path": "nq"},
        "own": {"reader": "qasper", "path": "qasper"},
    },
    "corpora": {
        "wiki": {"reader": "dpr_passages", "path": "wiki.tsv"},
        "pages": {"reader": "text", "path": "pages.txt"},
    },
    "chunkings": {"words": {"passage_words": 50}, "tokens": {"passage_tokens": 64, "tokenizer": "bpe"}},
    "retrievers": {
        "pair": {
            "query_model": "some/questions", "passage_model": "some/passages", "pooling": "cls", "normalize": False,
            "query_prefix": "q: ", "passage_prefix": "p: ", "title_separator": "blank", "max_length": 128,
            "batch_tokens": 1000,
        },
        "published": {"preset": "e5"},
        "sparse": {"kind": "bm25"},
        "answers": {"kind": "gold"},
        "any": {"kind": "random"},
        "worse": {"kind": "degraded", "base": "pair"},
    },
    "indexes": {
        "lists": {
            "factory": "IVF64_HNSW32,PQ8", "nprobe": 4, "ef_search": 32, "shard_vectors": 1000, "rerank": 20,
        },
        "exact": {"preset": "exact"},
        "graph": {"preset": "hnsw"},
    },
    "retrievals": {
        "dense": {
            "retriever": "pair", "index": "lists", "corpus": "wiki", "chunking": "words",
            "gpt": {"num_contexts": 2}, "retro": {"num_contexts": 1, "num_neighbors": 2},
        },
        "preset": {"retriever": "published", "index": "exact", "corpus": "wiki", "chunking": "words", "top_k": 2},
        "tokens": {"retriever": "sparse", "corpus": "wiki", "chunking": "tokens", "top_k": 2},
        "gold": {"retriever": "answers", "corpus": "wiki", "chunking": "words", "top_k": 2},
        "random": {"retriever": "any", "corpus": "wiki", "chunking": "words", "top_k": 2},
        "degraded": {"retriever": "worse", "index": "graph", "corpus": "wiki", "chunking": "words", "top_k": 2},
        "none": {"top_k": 0},
        "reading": {
            "retriever": "sparse", "corpus": "pages", "chunking": "words",
            "gpt": {"num_contexts": 2}, "retro": {"num_contexts": 1, "num_neighbors": 1},
        },
        "fitting": {
            "retriever": "sparse", "corpus": "pages", "chunking": "words", "retro": {"num_neighbors": 1},
        },
        "searching": {
            "retriever": "worse", "index": "lists", "corpus": "pages", "chunking": "words",
            "retro": {"num_neighbors": 2},
        },
    },
    "tokenizers": {"bpe": {"corpora": ["pages"]}, "other": {"corpora": ["pages"]}},
    "sizes": {
        "tiny": {
            "num_layers": 6, "hidden_size": 32, "num_heads": 4, "ffn_size": 64, "max_length": 2048,
            "cross_attention_layers": [1, 3],
        },
        "wide": {"num_layers": 6, "hidden_size": 64, "num_heads": 4, "ffn_size": 64, "max_length": 2048},
    },
    "pretrainings": {
        "short": {
            "corpora": ["pages"], "tokenizer": "bpe", "retrieval": "reading", "neighbors_per": "document",
            "emphasis": {},
        },
        "long": {"corpora": ["pages"], "tokenizer": "bpe", "steps": 9999},
    },
    "retrofittings": {
        "fit": {
            "corpora": ["pages"], "retrieval": "fitting", "neighbors_per": "document", "cross_attention_layers": [1],
            "emphasis": {},
        },
        "refit": {"corpora": ["pages"], "retrieval": "fitting", "steps": 9999},
    },
    "models": {
        "gpt": {"family": "gpt", "size": "tiny", "pretraining": "short", "resources": {"processes": 2}},
        "retro": {"family": "retro", "size": "tiny", "pretraining": "short"},
        "plain": {"family": "gpt", "size": "tiny", "pretraining": "long"},
        "fitted": {"family": "gpt", "size": "label", "retrofit_from": "gpt", "retrofitting": "refit"},
        "retrofitted": {"family": "retro", "size": "label", "retrofit_from": "gpt", "retrofitting": "fit"},
        "hub": {"family": "gpt", "size": "label", "hub": "some/model"},
        "folder": {"family": "retro", "size": "label", "path": "nowhere/folder"},
        "released": {
            "family": "retro", "size": "label",
            "checkpoint": {"path": "nowhere/checkpoint", "tokenizer": "nowhere/t.model", "chunk_length": 64},
        },
        "wheel": {"family": "gpt", "size": "label", "checkpoint": {"path": "a/b.gguf", "package": "weights==1"}},
    },
    "methods": {
        "zeroshot": {"kind": "zeroshot"},
        "lora": {"kind": "lora"},
        "ptuning": {"kind": "ptuning"},
        "adapter": {"kind": "adapter"},
        "ia3": {"kind": "ia3"},
        "full": {"kind": "full"},
    },
    "grid": [
        {"methods": ["zeroshot", "lora"], "retrievals": ["dense"]}, {"models": ["gpt"], "retrievals": ["dense"]},
        {
            "models": ["gpt", "retro"], "methods": ["zeroshot"],
            "retrievals": ["preset", "tokens", "gold", "random", "degraded", "none"],
        },
    ],
}  # fmt: skip

RAW = "prepare_train prepare_test"
PASSAGES = "chunk_corpus chunk_documents"
READ_RAW = (
    "prepare_train prepare_test chunk_corpus train_tokenizer cache_pretraining_neighbors pretrain_model retrofit_model"
)
SEARCH = "cache_neighbors measure_retrieval"
BASES = "pretrain_model retrofit_model"
TEXT = f"train_tokenizer cache_pretraining_neighbors {BASES}"
CELLS = "finetune_cell predict_cell"

FINETUNING = {
    "learning_rate": 0.5, "batch_size": 3, "micro_batch_size": 2, "epochs": 7, "max_steps": 5, "warmup_steps": 4,
    "weight_decay": 0.3, "beta1": 0.4, "beta2": 0.4, "max_grad_norm": 3, "activation_checkpointing": True,
}  # fmt: skip
RECIPE = {
    "no_passage_share": 0.5, "sequence_length": 256, "batch_size": 3, "steps": 7,
    "learning_rate": 0.5, "embedding_learning_rate": 0.4, "weight_decay": 0.3, "warmup_steps": 2,
    "emphasis.cue": "So", "emphasis.other_weight": 0.5, "optimizer": "muon",
    "muon_precision": "float32", "precision": "bfloat16", "activation_checkpointing": True, "seed": 3,
}  # fmt: skip
RESOURCES = {"gpus": 2, "cpus": 3, "mem_mb": 9, "runtime": 9}

ROWS: dict[str, tuple[Any, str]] = {
    # raw files and passages
    "world.seed": (2, "write_world"),
    "world.pretraining_pages": (3, "write_world"),
    "world.train_documents": (3, "write_world"),
    "world.test_documents": (3, "write_world"),
    "world.questions_per_document": (3, "write_world"),
    "datasets.open.reader": (
        "qasper",
        f"{RAW} download_source {SEARCH} {CELLS} score_cell collect_metrics collect_answers",
    ),
    "datasets.own.reader": ("quality", f"{RAW} {CELLS} score_cell collect_metrics"),
    "datasets.open.layout": ("dpr", RAW),
    "datasets.open.path": ("other", f"{RAW} download_source"),
    "datasets.open.prompt": ("instruct", CELLS),
    "datasets.open.max_train": (3, "prepare_train"),
    "datasets.open.max_test": (3, "prepare_test"),
    "datasets.open.max_new_tokens": (3, f"{CELLS} collect_answers"),
    "datasets.open.skip_bad_records": (True, RAW),
    "corpora.pages.reader": ("dpr_passages", f"chunk_corpus {TEXT}"),
    "corpora.pages.path": ("other.txt", f"chunk_corpus {TEXT}"),
    "corpora.pages.documents": ("paragraph", f"chunk_corpus {TEXT}"),
    "corpora.pages.max_documents": (3, f"chunk_corpus {TEXT}"),
    "corpora.wiki.path": ("other.tsv", "chunk_corpus"),
    "corpora.wiki.skip_bad_records": (True, "chunk_corpus"),
    "chunkings.words.passage_words": (3, PASSAGES),
    "chunkings.tokens.passage_tokens": (3, PASSAGES),
    "chunkings.tokens.tokenizer": ("other", ""),
    "tokenizers.bpe.corpora": (["wiki"], "train_tokenizer"),
    "tokenizers.bpe.vocab_size": (300, "train_tokenizer"),
    # retrieval: a search checks that vectors are those of its encoder of passages
    "retrievers.any.kind": ("bm25", f"{SEARCH} test_claims"),
    "retrievers.published.preset": ("bge", f"embed_passages {SEARCH}"),
    "retrievers.pair.query_model": ("other/questions", SEARCH),
    "retrievers.pair.passage_model": ("other/passages", f"embed_passages {SEARCH}"),
    "retrievers.pair.pooling": ("mean", f"embed_passages {SEARCH}"),
    "retrievers.pair.normalize": (True, f"embed_passages {SEARCH}"),
    "retrievers.pair.query_prefix": ("ask: ", SEARCH),
    "retrievers.pair.passage_prefix": ("read: ", f"embed_passages {SEARCH}"),
    "retrievers.pair.title_separator": ("sep_token", f"embed_passages {SEARCH}"),
    "retrievers.pair.max_length": (64, f"embed_passages {SEARCH}"),
    "retrievers.pair.batch_tokens": (64, f"embed_passages {SEARCH}"),
    "retrievers.pair.precision": ("auto", f"embed_passages {SEARCH}"),
    "retrievers.pair.trust_remote_code": (True, f"embed_passages {SEARCH}"),
    "retrievers.pair.block_passages": (64, "embed_passages"),
    "retrievers.worse.base": ("published", SEARCH),
    "retrievers.worse.share": (0.1, SEARCH),
    "retrievers.any.seed": (1, SEARCH),
    "indexes.exact.preset": ("ivf-flat", "build_index"),
    "indexes.lists.factory": ("IVF64_HNSW16,PQ8", "build_index"),
    "indexes.lists.training_vectors": (3, "build_index"),
    "indexes.lists.nprobe": (3, "build_index"),
    "indexes.lists.ef_search": (16, "build_index"),
    "indexes.lists.shard_vectors": (3, "build_index"),
    "indexes.lists.rerank": (3, "build_index"),
    "indexes.lists.device": ("cpu", "build_index"),
    "retrievals.dense.retriever": ("published", SEARCH),
    "retrievals.random.retriever": ("answers", f"{SEARCH} predict_cell test_claims"),
    "retrievals.dense.index": ("graph", ""),
    "retrievals.dense.corpus": ("pages", ""),
    "retrievals.reading.corpus": ("wiki", "cache_pretraining_neighbors"),
    "retrievals.dense.chunking": ("tokens", ""),
    "retrievals.dense.top_k": (6, "cache_neighbors"),
    "retrievals.degraded.top_k": (3, SEARCH),
    "retrievals.reading.top_k": (6, "cache_pretraining_neighbors"),
    "retrievals.dense.continuation": (True, "cache_neighbors"),
    "retrievals.reading.continuation": (True, "cache_pretraining_neighbors"),
    **{
        f"retrievals.{name}.{family}.{key}": (value, stages)
        for name, stages in (("dense", CELLS), ("reading", "pretrain_model"))
        for family, key, value in (
            ("gpt", "num_contexts", 3), ("gpt", "reuse_contexts", True),
            ("retro", "num_contexts", 2), ("retro", "num_neighbors", 3), ("retro", "reuse_contexts", True),
        )
    },
    "retrievals.fitting.retro.num_neighbors": (2, "retrofit_model"),
    # base models
    "sizes.tiny.num_layers": (7, "pretrain_model"),
    "sizes.tiny.hidden_size": (64, "pretrain_model"),
    "sizes.tiny.num_heads": (2, "pretrain_model"),
    "sizes.tiny.ffn_size": (96, "pretrain_model"),
    "sizes.tiny.max_length": (1536, "pretrain_model"),
    "sizes.tiny.chunk_length": (32, "pretrain_model"),
    "sizes.tiny.retrieved_length": (32, "pretrain_model"),
    "sizes.tiny.cross_attention_layers": ([2], "pretrain_model"),
    "sizes.tiny.encoder_layers": (1, "pretrain_model"),
    "sizes.tiny.encoder_attends_chunk": (False, "pretrain_model"),
    "sizes.tiny.key_shift": (True, "pretrain_model"),
    "sizes.tiny.tie_embeddings": (True, "pretrain_model"),
    "sizes.tiny.rotary_share": (1.0, "pretrain_model"),
    **{f"pretrainings.short.{key}": (value, "pretrain_model") for key, value in RECIPE.items()},
    "pretrainings.long.neighbors_per": ("document", "pretrain_model"),  # chunks' may not stand in prompts
    "pretrainings.short.corpora": (["wiki"], "cache_pretraining_neighbors pretrain_model"),
    "pretrainings.short.retrieval": ("fitting", "pretrain_model"),
    "pretrainings.short.tokenizer": ("other", ""),
    **{f"retrofittings.fit.{key}": (value, "retrofit_model") for key, value in RECIPE.items()},
    "retrofittings.fit.corpora": (["wiki"], "cache_pretraining_neighbors retrofit_model"),
    "retrofittings.fit.retrieval": ("searching", "cache_pretraining_neighbors retrofit_model"),
    "retrofittings.fit.neighbors_per": ("chunk", "retrofit_model"),
    "retrofittings.fit.train": ("new", "retrofit_model"),
    "retrofittings.fit.new_learning_rate": (0.5, "retrofit_model"),
    "retrofittings.fit.cross_attention_layers": ([2], "retrofit_model"),
    "retrofittings.fit.encoder_layers": (1, "retrofit_model"),
    "retrofittings.fit.encoder_start": ("decoder", "retrofit_model"),
    "retrofittings.fit.chunk_length": (32, "retrofit_model"),
    "retrofittings.fit.retrieved_length": (32, "retrofit_model"),
    "models.retro.family": ("gpt", f"pretrain_model {CELLS} collect_metrics"),
    "models.retrofitted.family": ("gpt", f"retrofit_model {CELLS} collect_metrics"),
    "models.released.family": ("gpt", f"convert_model {CELLS} collect_metrics"),
    "models.folder.family": ("gpt", f"{CELLS} collect_metrics"),
    "models.retro.size": ("wide", "pretrain_model collect_metrics"),
    "models.folder.size": ("m", "collect_metrics make_tables"),  # there are published numbers of this size
    "models.gpt.pretraining": ("long", "pretrain_model"),
    "models.hub.hub": ("other/model", "fetch_model"),
    "models.folder.path": ("nowhere/else", "fetch_model"),
    "models.released.checkpoint.path": ("nowhere/else", "convert_model"),
    "models.released.checkpoint.tokenizer": ("nowhere/else", "convert_model"),
    "models.released.checkpoint.chunk_length": (32, "convert_model"),
    "models.released.checkpoint.vocab_size": (300, "convert_model"),
    "models.wheel.checkpoint.package": ("weights==2", "convert_model"),
    "models.retrofitted.retrofit_from": ("fitted", "retrofit_model"),
    "models.fitted.retrofitting": ("fit", "retrofit_model"),
    "models.hub.instruct": (True, f"{CELLS} collect_metrics make_tables write_report"),
    "models.folder.retrieval_gate": (0, f"{CELLS} collect_metrics"),
    "models.hub.precision": ("bfloat16", CELLS),
    "models.hub.trust_remote_code": (True, f"fetch_model {CELLS}"),
    # cells
    "methods.zeroshot.kind": ("ia3", "collect_metrics draw_figures write_report"),
    "methods.lora.kind": ("ia3", "finetune_cell collect_metrics"),
    "methods.ptuning.kind": ("full", f"{CELLS} collect_metrics"),
    "methods.adapter.kind": ("ia3", "finetune_cell collect_metrics"),
    "methods.ia3.kind": ("full", "finetune_cell collect_metrics"),
    "methods.full.kind": ("ia3", "finetune_cell collect_metrics"),
    "methods.lora.rank": (3, "finetune_cell"),
    "methods.lora.alpha": (3.0, "finetune_cell"),
    "methods.lora.dropout": (0.3, "finetune_cell"),
    **{f"methods.{kind}.targets": (["v_proj"], "finetune_cell") for kind in ("lora", "adapter", "ia3")},
    "methods.ia3.input_targets": (["down_proj"], "finetune_cell"),
    "methods.ptuning.num_virtual_tokens": (3, CELLS),
    "methods.ptuning.encoder_hidden_size": (3, "finetune_cell"),
    "methods.adapter.bottleneck_dim": (3, "finetune_cell"),
    "methods.adapter.encoder_bottleneck_dim": (3, "finetune_cell"),
    "methods.adapter.dropout": (0.3, "finetune_cell"),
    **{
        f"methods.{kind}.finetuning.{key}": (value, "finetune_cell")
        for kind, record in METHODS.items()
        if record.schema.trained
        for key, value in FINETUNING.items()
    },
    **{f"finetuning.{key}": (value, "finetune_cell") for key, value in FINETUNING.items()},
    "max_length": (777, CELLS),
    "evaluation.batch_size": (3, "predict_cell"),
    "evaluation.metrics": ({"open": ["contains"]}, "score_cell collect_metrics"),
    "evaluation.resamples": (3, "make_tables test_claims"),
    "evaluation.retrieval_depth": (3, "measure_retrieval"),
    # what reruns nothing: of the report at most
    "study": ("other", "collect_metrics write_report"),
    "models.plain.replicate_of": ("gpt", "collect_metrics"),
    # raw files are those of the world, and then others
    "data_root": ("elsewhere", READ_RAW),
    "results_dir": ("elsewhere", ""),
    "resources_dir": ("elsewhere", ""),
    **{
        f"rule_resources.{rule}.{key}": (value, "")
        for rule in RuleResources.model_fields
        for key, value in RESOURCES.items()
    },
    **{f"models.gpt.resources.{key}": (value, "") for key, value in RESOURCES.items()},
    "models.gpt.resources.nodes": (2, ""),
    "models.gpt.resources.processes": (3, ""),
    "models.gpt.resources.sharded": (True, ""),
    "save_every.seconds": (3, ""),
    "save_every.steps": (3, ""),
    "claims": ([], "test_claims write_report"),
    "published": ([], "make_tables write_report"),
    "grid.0.models": (["gpt", "retro"], "collect_metrics"),
    "grid.0.methods": (["zeroshot", "full"], "collect_metrics"),
    "grid.0.datasets": (["own"], "collect_metrics report_retrieval"),
    "grid.0.retrievals": (["preset"], "collect_metrics report_retrieval"),
    "grid.0.seeds": ([0, 1], "collect_metrics"),
    "select.model": ("gpt", "collect_metrics"),
    "select.family": ("gpt", "collect_metrics"),
    "select.size": ("tiny", "collect_metrics"),
    "select.method": ("lora", "collect_metrics make_tables draw_figures report_retrieval test_claims write_report"),
    "select.dataset": ("own", "collect_metrics collect_answers report_retrieval"),
    "select.retrieval": ("none", "collect_metrics draw_figures make_tables report_retrieval test_claims write_report"),
    "select.seed": (0, ""),
}  # fmt: skip


def changed(place: str, value: Any) -> dict[str, Any]:
    """`STUDY` with another value at a place."""
    raw = copy.deepcopy(STUDY)
    target: Any = raw
    *parents, last = place.split(".")
    for key in parents:
        target = target[int(key)] if isinstance(target, list) else target.setdefault(key, {})
    target[last] = value
    return raw


Job = tuple[str, tuple[tuple[str, str], ...]]


def jobs(config: Config) -> Iterator[Job]:
    """Stage and wildcards of each job that a study needs, some of them repeatedly; downloads as if it had no world."""
    yield from ((stage, ()) for stage in REPORT_STAGES)
    for world in (config.world, None):
        for artifact in Artifacts(config.model_copy(update={"world": world})).all():
            if artifact.stage is not None and ("download", "None") not in artifact.names:
                # the rule for retrofitting is a copy of that for pretraining
                yield artifact.stage.replace("retrofitting", "pretraining"), artifact.names
