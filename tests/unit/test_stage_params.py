"""What stages use of a study, as text: read again it is the same, without defaults, and of one version of the code."""

import itertools
import json
import re
from typing import Any

import pytest
from pydantic import BaseModel, create_model

from retrotune.errors import ConfigError
from retrotune.study.config import Config, load_config
from retrotune.study.resolve import resolve
from retrotune.study.stages import STAGES, VERSIONS, StageParams

RETRIEVAL = {"corpus": "wiki", "chunking": "words", "gpt": {"num_contexts": 2}, "retro": {"num_contexts": 1}}
STUDY: dict[str, Any] = {
    "study": "rich",
    "world": {"seed": 3, "test_documents": 9},
    "datasets": {
        "nq": {"reader": "nq", "path": "nq", "max_train": 0, "max_test": 5, "max_new_tokens": 7},
        "qasper": {"reader": "qasper", "path": "qasper", "skip_bad_records": True, "prompt": "instruct"},
        "narrativeqa": {"reader": "narrativeqa", "layout": "scrolls", "path": "n"},
    },
    "corpora": {
        "wiki": {"reader": "dpr_passages", "path": "wikipedia", "max_documents": 50},
        "pages": {"reader": "text", "path": "pretraining/pages.txt", "documents": "wikitext"},
    },
    "chunkings": {"words": {}, "few": {"passage_words": 30}, "tokens": {"passage_tokens": 64, "tokenizer": "pieces"}},
    "tokenizers": {"pieces": {"corpora": ["wiki", "pages"], "vocab_size": 500}},
    "retrievers": {
        "dragon": {},
        "long": {"preset": "minilm", "max_length": 512, "block_passages": 10, "batch_tokens": 99},
        "own": {"query_model": "q", "passage_model": "p", "pooling": "mean", "passage_prefix": "passage: "},
        "bm25": {"kind": "bm25"},
        "gold": {"kind": "gold"},
        "random": {"kind": "random", "seed": 4},
        "worse": {"kind": "degraded", "base": "long", "share": 0.25},
    },
    "indexes": {
        "exact": {},
        "codes": {"preset": "ivf-pq", "nprobe": 9, "shard_vectors": 1000},
        "graph": {"factory": "HNSW16,Flat", "ef_search": 100, "device": "cpu"},
    },
    "retrievals": {
        "none": {"top_k": 0},
        "far": {**RETRIEVAL, "retriever": "long", "index": "codes", "top_k": 9, "continuation": True},
        **{name: {**RETRIEVAL, "retriever": name} for name in ("bm25", "gold", "random")},
        "worse": {**RETRIEVAL, "retriever": "worse", "index": "exact"},
        "chunks": {**RETRIEVAL, "retriever": "own", "index": "graph", "gpt": {}, "retro": {"num_neighbors": 2}},
    },
    "sizes": {
        "six": {"num_layers": 6, "hidden_size": 32, "num_heads": 4, "ffn_size": 64, "max_length": 2048},
        "crossed": {"num_layers": 2, "hidden_size": 8, "num_heads": 1, "ffn_size": 8, "cross_attention_layers": [1]},
    },
    "pretrainings": {
        "bare": {"corpora": ["pages"], "tokenizer": "pieces", "neighbors_per": "document", "optimizer": "muon"},
        "read": {
            "corpora": ["pages", "wiki"], "tokenizer": "pieces", "retrieval": "far", "neighbors_per": "document",
            "emphasis": {"other_weight": 0.5}, "steps": 9,
        },
    },
    "retrofittings": {"fit": {"corpora": ["pages"], "retrieval": "chunks", "encoder_start": "decoder"}},
    "models": {
        "gpt": {"family": "gpt", "size": "six", "pretraining": "bare"},
        "retro": {"family": "retro", "size": "crossed", "pretraining": "read", "retrieval_gate": 0.5},
        "paper": {"family": "retro", "size": "xs", "pretraining": "read"},
        "fitted": {"family": "retro", "size": "six", "retrofit_from": "gpt", "retrofitting": "fit"},
        "hub": {"family": "gpt", "size": "135M", "hub": "some/model", "instruct": True, "precision": "bfloat16"},
        "path": {"family": "gpt", "size": "135M", "path": "somewhere"},
        "shards": {"family": "retro", "size": "800M", "checkpoint": {"path": "c", "chunk_length": 64}},
        "packed": {"family": "gpt", "size": "1B", "checkpoint": {"path": "m.gguf", "package": "model==1.2"}},
    },
    "methods": {
        "zeroshot": {"kind": "zeroshot"},
        "lora": {"kind": "lora", "rank": 8, "finetuning": {"learning_rate": 0.5, "max_steps": 7}},
        "adapter": {"kind": "adapter", "bottleneck_dim": 6},
        "ptuning": {"kind": "ptuning", "num_virtual_tokens": 5},
        "ia3": {"kind": "ia3"},
        "full": {"kind": "full"},
    },
    "finetuning": {"epochs": 2, "micro_batch_size": 2},
    "max_length": 640,
    "evaluation": {"batch_size": 3, "retrieval_depth": 20},
    "grid": {"retrievals": ["none", "far", "bm25", "gold", "random", "worse", "chunks"], "seeds": [1, 2]},
}  # fmt: skip


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(STUDY)


def wildcards_of(config: Config, stage: str) -> list[dict[str, str]]:
    """Wildcards of all jobs of a stage that the study could have."""

    def names(entries: Any, wanted: Any = lambda entry: True) -> list[str]:
        return [name for name, entry in entries.items() if wanted(entry)]

    searching = names(config.retrievals, lambda entry: entry.retriever is not None)
    models = {
        "pretrain_model": "pretraining", "retrofit_model": "retrofit_from", "convert_model": "checkpoint",
        "fetch_model": ("hub", "path"),
    }  # fmt: skip
    cells = {"model": names(config.models), "method": names(config.methods), "dataset": names(config.datasets)}
    axes: dict[str, list[str]] = {}
    if stage in models:
        keys = models[stage] if isinstance(models[stage], tuple) else (models[stage],)
        axes = {"model": names(config.models, lambda entry: any(getattr(entry, key) for key in keys))}
    elif stage.endswith("_cell"):
        axes = {**cells, "retrieval": names(config.retrievals), "seed": ["1"]}
        if stage == "finetune_cell":
            axes["method"] = names(config.methods, lambda entry: entry.trained)
    elif stage.startswith("prepare_"):
        axes = {"dataset": names(config.datasets)}
    elif stage.startswith("chunk_"):
        axes = {"chunking": names(config.chunkings), "corpus": names(config.corpora)}
    elif stage in ("cache_neighbors", "measure_retrieval"):
        axes = {"retrieval": searching, "dataset": names(config.datasets), "split": ["train", "test"]}
    elif stage == "cache_pretraining_neighbors":
        return [{"pretraining": "read"}, {"retrofitting": "fit"}]
    elif stage == "download_source":
        axes = {"download": ["nq", "narrativeqa-scrolls", "wikipedia"]}
    elif stage == "train_tokenizer":
        axes = {"tokenizer": names(config.tokenizers)}
    elif stage == "embed_passages":
        axes = {"retriever": names(config.retrievers, lambda entry: entry.kind == "dense")}
    elif stage == "build_index":
        axes = {"index": names(config.indexes)}
    return [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]


def all_params(config: Config, stage: str) -> list[StageParams]:
    found = [resolve(config, stage, wildcards) for wildcards in wildcards_of(config, stage)]
    assert found
    assert {type(params) for params in found} == {STAGES[stage]}
    return found


def defaults_in(written: Any, value: Any, place: str = "") -> list[str]:
    """Places in the text where it says what a field's default is."""
    if isinstance(value, BaseModel):
        found = []
        for name, field in type(value).model_fields.items():
            default = None if field.is_required() else field.get_default(call_default_factory=True)
            given = getattr(value, name)
            if name in written and not field.is_required() and given == default:
                found.append(f"{place}.{name}")
            elif name in written:
                found += defaults_in(written[name], given, f"{place}.{name}")
        return found
    if isinstance(value, dict):
        return [deeper for name in value for deeper in defaults_in(written[name], value[name], f"{place}.{name}")]
    return []


@pytest.mark.parametrize("stage", STAGES)
def test_a_text_is_read_as_what_it_was_made_of(config, stage):
    for params in all_params(config, stage):
        text = params.text()
        read = STAGES[stage].of(text)
        assert read == params
        assert read.text() == text
        written = json.loads(text)
        assert text == json.dumps(written, sort_keys=True)
        assert written.pop("version") == VERSIONS[stage]
        assert defaults_in(written, params) == [], "a new field with a default reruns nothing"
        assert set(params.recorded()) == {"version", *STAGES[stage].model_fields}, "results record defaults too"


@pytest.mark.parametrize("stage", STAGES)
def test_a_text_of_another_version_is_refused(config, stage, monkeypatch):
    params = all_params(config, stage)[0]
    text, version = params.text(), params.version
    monkeypatch.setattr(STAGES[stage], "version", version + 1)
    message = (
        f"{stage}: planned by version {version}, but the code is version {version + 1} now: .*start snakemake again"
    )
    with pytest.raises(ConfigError, match=message):
        STAGES[stage].of(text)
    assert params.text() != text


@pytest.mark.parametrize("stage", STAGES)
def test_a_new_field_with_a_default_changes_no_text(config, stage):
    grown = create_model("Grown", __base__=STAGES[stage], added=(int, 5))
    params = all_params(config, stage)[0]
    assert grown.of(params.text()).text() == params.text()
    assert grown.of(params.text()).recorded()["added"] == 5


def test_a_seed_is_no_value_of_a_stage(config):
    """Cells that differ in their seed only share what is resolved; seeds are in the paths."""
    cell = {"model": "retro", "method": "lora", "dataset": "qasper", "retrieval": "far"}
    for stage in ("finetune_cell", "predict_cell", "score_cell"):
        assert "seed" not in json.loads(resolve(config, stage, cell).text())
        assert resolve(config, stage, {**cell, "seed": "1"}) == resolve(config, stage, cell)


def test_every_rule_uses_a_stage_and_every_stage_has_a_rule(repository):
    rules = "".join(path.read_text() for path in sorted((repository / "workflow" / "rules").glob("*.smk")))
    assert set(re.findall(r'uses=uses\("(\w+)"\)', rules)) == set(STAGES)
