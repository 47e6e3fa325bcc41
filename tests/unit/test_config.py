"""The schema: defaults, errors that name the nearest key or entry, and documentation that cannot drift."""

import copy

import pytest
import yaml

from retrotune.documentation import generated_parts, schema_text, with_generated
from retrotune.errors import ConfigError
from retrotune.study.config import ModelResources, load_config, read_config, read_yaml

SMALL = {
    "study": "small",
    "datasets": {"nq": {"reader": "nq", "path": "nq"}, "qasper": {"reader": "qasper", "path": "qasper"}},
    "corpora": {"wiki": {"reader": "dpr_passages", "path": "psgs.tsv"}},
    "chunkings": {"words100": {}},
    "retrievers": {"bm25": {"kind": "bm25"}},
    "retrievals": {
        "bm5": {"retriever": "bm25", "corpus": "wiki", "chunking": "words100", "gpt": {"num_contexts": 5}},
        "none": {"top_k": 0},
    },
    "tokenizers": {"t": {"corpora": ["wiki"]}},
    "sizes": {"four": {"num_layers": 4, "hidden_size": 32, "num_heads": 4, "ffn_size": 64}},
    "pretrainings": {"p": {"corpora": ["wiki"], "tokenizer": "t", "retrieval": "bm5", "neighbors_per": "document"}},
    "models": {"g": {"family": "gpt", "size": "xs", "hub": "some/model"}},
    "methods": {"zeroshot": {"kind": "zeroshot"}, "lora": {"kind": "lora", "finetuning": {"learning_rate": 0.5}}},
    "grid": {"retrievals": ["bm5"]},
}


def changed(path, value, raw=SMALL):
    raw = copy.deepcopy(raw)
    *parents, last = path.split(".")
    target = raw
    for key in parents:
        target = target[key]
    target[last] = value
    return raw


def test_defaults_are_the_authors():
    config = load_config(SMALL)
    assert config.resources == "resources/small"
    assert config.methods["lora"].rank == 32
    finetuning = config.finetuning_of("lora")
    assert (finetuning.learning_rate, finetuning.beta2, finetuning.batch_size) == (0.5, 0.98, 8)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("datasts", {}, "datasts: unknown key 'datasts'; did you mean 'datasets'?"),
        ("methods.lora.rnk", 4, "unknown key 'rnk'; did you mean 'rank'?"),
        ("datasets.nq.pth", "x", "datasets.nq.pth: unknown key 'pth'; did you mean 'path'?"),
        ("retrievals.bm5.gpt.num_context", 2, "did you mean 'num_contexts'?"),
        ("methods.lora.finetuning.learning_rat", 2, "did you mean 'learning_rate'?"),
        ("models.g.size", "xxs", "models.g.size: no entry 'xxs' in `sizes`"),
        ("retrievals.bm5.retriever", "bm26", "did you mean 'bm25'?"),
        ("retrievals.bm5.top_k", 3, "gpt uses 5 passages but top_k is 3: raise top_k"),
        ("methods.lora.rank", 0, "methods.lora.lora.rank"),
        ("methods.lora.kind", "lorra", "methods.lora"),
        ("models.g.retrieval_gate", 0, "retrieval_gate=0 needs family: retro; a GPT reads no neighbors"),
        (
            "models.g",
            {"family": "retro", "size": "xs", "path": "r", "retrieval_gate": -1},
            "models.g.retrieval_gate: Input should be greater than or equal to 0 (found -1)",
        ),
        ("models.g.path", "here", "exactly one of pretraining, hub, path, checkpoint, retrofit_from must"),
        ("grid.models", ["h"], "no entry 'h' in `models`"),
        ("grid.retrievals", [], "grid.0.retrievals"),
        ("corpora", {"nq": {"reader": "text", "path": "x"}}, "datasets.nq: a corpus has the same name"),
        ("study", "../evil", "study"),
        ("datasets.nq.layout", "scrolls", "nq has no layout 'scrolls'; it has official and dpr"),
        ("datasets.qasper.layout", "dpr", "qasper has no layout 'dpr'; it has official and scrolls"),
        ("models.g", {"family": "retro", "size": "xs", "hub": "gpt2"}, "'gpt2' needs family: gpt"),
        (
            "models.g",
            {"family": "retro", "size": "four", "pretraining": "p"},
            "models.g.size: four has no cross-attention layer: list sizes.four",
        ),
        ("sizes.four.num_heads", 3, "hidden_size=32 is no multiple of num_heads=3"),
        ("sizes.four.cross_attention_layers", [4], "cross_attention_layers [4]: there are layers 0 to 3 only"),
        (
            "pretrainings.p.neighbors_per",
            "chunk",
            "pretrainings.p.neighbors_per: chunks get their passages in the encoder",
        ),
    ],
)
def test_bad_configuration_names_key_and_remedy(path, value, message):
    raw = changed(path, value)
    if path == "models.g.size":
        raw["models"]["g"] = {"family": "gpt", "size": value, "pretraining": "p"}
    with pytest.raises(ConfigError) as error:
        load_config(raw)
    assert message in str(error.value)


def retrofits():
    """SMALL with a GPT of six layers that is pretrained here, and both arms made of it."""
    raw = copy.deepcopy(SMALL)
    raw["sizes"]["six"] = {"num_layers": 6, "hidden_size": 32, "num_heads": 4, "ffn_size": 64, "max_length": 2048}
    raw["retrievals"]["bm2"] = {"retriever": "bm25", "corpus": "wiki", "chunking": "words100",
                                "retro": {"num_neighbors": 2}}  # fmt: skip
    raw["retrofittings"] = {"fit": {"corpora": ["wiki"], "retrieval": "bm2"}}
    raw["models"] |= {
        "base": {"family": "gpt", "size": "six", "pretraining": "p"},
        "fitted": {"family": "gpt", "size": "six", "retrofit_from": "base", "retrofitting": "fit"},
        "retro": {"family": "retro", "size": "label", "retrofit_from": "base", "retrofitting": "fit"},
    }
    return raw


def test_a_retrofit_is_a_recipe_and_a_source():
    raw = retrofits()
    config = load_config(raw)
    assert config.retrofittings["fit"].train == "all"
    raw["models"]["retro"]["retrofit_from"] = "fitted"
    load_config(raw)
    raw["sizes"]["six"] |= {"num_layers": 4}
    raw["retrofittings"]["fit"]["cross_attention_layers"] = [1, 3]
    load_config(raw)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("models.retro.retrofit_from", "bse", "models.retro.retrofit_from: no entry 'bse' in `models`; did you mean"),
        ("models.retro.retrofitting", "fot", "models.retro.retrofitting: no entry 'fot' in `retrofittings`; did you"),
        ("models.retro.retrofitting", None, "retrofit_from (the GPT) and retrofitting (how it is trained) need each"),
        ("models.retro.pretraining", "p", "exactly one of pretraining, hub, path, checkpoint, retrofit_from must"),
        ("models.fitted.retrofit_from", "fitted", "models.fitted.retrofit_from: 'fitted' comes from 'fitted' itself"),
        ("models.fitted.retrofit_from", "retro", "models.fitted.retrofit_from: 'retro' is a RETRO already"),
        ("models.retro.retrofit_from", "g", "'g' is of a class of transformers' own: download it and make it ours"),
        ("retrofittings.fit.train", "new", "models.fitted: retrofittings.fit trains new parts only, a GPT has none"),
        ("retrofittings.fit.retrieval", None, "retrofittings.fit.retrieval: a RETRO learns from neighbors"),
        ("retrofittings.fit.retrieval", "none", "retrofittings.fit.retrieval: a RETRO learns from neighbors"),
        ("retrofittings.fit.retrieval", "bm5", "retrofittings.fit.retrieval: retrievals.bm5 has num_contexts"),
        ("retrofittings.fit.retrieval", "bm3", "retrofittings.fit.retrieval: no entry 'bm3' in `retrievals`"),
        ("retrofittings.fit.corpora", ["wikis"], "retrofittings.fit.corpora: no entry 'wikis' in `corpora`"),
        ("retrofittings.fit.tokenizer", "t", "retrofittings.fit.tokenizer: unknown key 'tokenizer'"),
        ("retrofittings.fit.chunk_length", 60, "sequence_length=512 is no multiple of chunk_length=60"),
        (
            "retrofittings.fit",
            {"corpora": ["wiki"], "optimizer": "muon", "new_learning_rate": 1},
            "needs optimizer: adamw",
        ),
        ("retrofittings.fit.sequence_length", 2112, "2112 exceeds the window of 'base' (sizes.six.max_length=2048)"),
        ("max_length", 2049, "models.retro: max_length=2049 exceeds its window (sizes.six.max_length=2048): lower max"),
        ("retrofittings.fit.cross_attention_layers", [6], "cross_attention_layers [6]: 'base' has layers 0 to 5 only"),
        ("sizes.six.num_layers", 5, "cross_attention_layers: NVIDIA's rule puts none into the 5 layers of 'base'"),
    ],
)
def test_an_impossible_retrofit_is_explained(path, value, message):
    with pytest.raises(ConfigError) as error:
        load_config(changed(path, value, retrofits()))
    assert message in str(error.value)


def test_models_that_come_from_each_other_are_refused():
    raw = retrofits()
    raw["models"]["base"] = {"family": "gpt", "size": "six", "retrofit_from": "fitted", "retrofitting": "fit"}
    with pytest.raises(ConfigError, match="models.base.retrofit_from: 'fitted' comes from 'base' itself: start from"):
        load_config(raw)


def test_a_study_chooses_metrics():
    config = load_config(changed("evaluation", {"metrics": {"nq": ["contains", "f1"]}}))
    assert config.metrics_of("nq") == ("contains", "f1", "exact_match", "exact_match_unicode")
    assert config.metrics_of("qasper") == config.datasets["qasper"].record.metrics


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"nq": ["contain"]}, "evaluation.metrics.nq: unknown metric 'contain'; did you mean 'contains'"),
        ({"nqq": ["f1"]}, "evaluation.metrics.nqq: no entry 'nqq' in `datasets`; did you mean 'nq'"),
        ({"nq": ["f1", "accuracy"]}, "evaluation.metrics.nq: accuracy needs questions with options, which nq has not"),
        ({"nq": []}, "evaluation.metrics.nq"),
    ],
)
def test_metrics_that_nothing_can_be_scored_by_are_refused(metrics, message):
    with pytest.raises(ConfigError, match=message):
        load_config(changed("evaluation", {"metrics": metrics}))


TWICE = {
    **SMALL,
    "pretrainings": {**SMALL["pretrainings"], "again": {**SMALL["pretrainings"]["p"], "seed": 1}},
    "models": {
        "first": {"family": "gpt", "size": "four", "pretraining": "p"},
        "second": {"family": "gpt", "size": "four", "pretraining": "again", "replicate_of": "first"},
    },
}


def test_a_replicate_is_a_model_trained_again():
    assert load_config(TWICE).models["second"].replicate_of == "first"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("models.second.replicate_of", "fist", "replicate_of: no entry 'fist' in `models`; did you mean 'first'"),
        ("models.second.replicate_of", "second", "'second' is a replicate itself: name the model that both replicate"),
        ("models.first.replicate_of", "second", "'second' is a replicate itself"),
        ("models.second.size", "xs", "replicate_of: size is xs, that of first is four"),
        ("models.second.precision", "bfloat16", "replicate_of: precision is bfloat16, that of first is float32"),
        ("models.second.pretraining", "p", "made as first is, to the last weight: give it a training of another seed"),
    ],
)
def test_replicates_that_are_none_are_refused(path, value, message):
    with pytest.raises(ConfigError, match=message):
        load_config(changed(path, value, TWICE))


def test_open_domain_needs_a_corpus():
    raw = copy.deepcopy(SMALL)
    del raw["retrievals"]["bm5"]["corpus"]
    with pytest.raises(ConfigError, match="needed, because nq is open-domain"):
        load_config(raw)


def test_sources_of_questions():
    config = load_config(SMALL)
    for split in ("train", "test"):
        assert config.dataset_source("nq", "bm5", split) == "wiki"
        assert config.dataset_source("qasper", "bm5", split) == f"qasper/{split}"


def test_committed_configurations_are_valid(repository):
    for path in (repository / "config").glob("*.yaml"):
        if path.name not in ("demo-full.yaml", "claims.yaml"):  # merged on top of config.yaml; no study
            load_config({"data_root": "somewhere", **read_yaml(path)})


def test_plain_text_needs_a_data_root():
    raw = changed("corpora.text", {"reader": "text", "path": "texts"})
    load_config({**raw, "data_root": "somewhere"})
    with pytest.raises(ConfigError, match="corpora.text: plain text has no official source.*set data_root"):
        load_config(raw)


def test_missing_or_broken_file(tmp_path):
    with pytest.raises(ConfigError, match="no such configuration file"):
        read_config(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("study: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_config(broken)
    broken.write_text("- a list")
    with pytest.raises(ConfigError, match="a mapping of keys"):
        read_config(broken)


def test_generated_documentation_is_current(repository):
    folder = repository / "config"
    assert (folder / "schema.json").read_text() == schema_text(), "run `make docs`"
    pages = generated_parts(folder)
    assert [page.name for page in pages] == ["README.md", "datasets.md", "claims.md", "files.md"]
    for page, part in pages.items():
        assert page.read_text() == with_generated(page.read_text(), part), "run `make docs`"
    assert yaml.safe_load((folder / "config.yaml").read_text())["study"] == "demo"


def controls():
    """SMALL with every control beside BM25."""
    raw = copy.deepcopy(SMALL)
    raw["indexes"] = {"flat": {}}
    raw["retrievers"] |= {
        "gold": {"kind": "gold"},
        "random": {"kind": "random", "seed": 2},
        "worse": {"kind": "degraded", "base": "bm25", "share": 0.5},
        "minilm": {"preset": "minilm"},
    }
    for name in ("gold", "random", "worse"):
        raw["retrievals"][name] = {**raw["retrievals"]["bm5"], "retriever": name}
    raw["grid"] = {"retrievals": ["bm5", "gold", "random", "worse"]}
    return raw


def test_controls_are_retrievers():
    config = load_config(controls())
    assert [config.searching(name) for name in ("worse", "random", "minilm")] == ["bm25", "random", "minilm"]
    assert config.evaluation.retrieval_depth == 100


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "retrievers.worse.base",
            "bm26",
            "retrievers.worse.base: no entry 'bm26' in `retrievers`; did you mean 'bm25'?",
        ),
        (
            "retrievers.worst",
            {"kind": "degraded", "base": "worse"},
            "'worse' is degraded itself: name its base, 'bm25'",
        ),
        ("retrievers.worse.base", "minilm", "retrievals.worse.index: the dense retriever 'worse' needs an entry"),
        ("retrievers.worse.max_length", 3, "a degraded retriever has no max_length; its keys: base, kind, seed, share"),
        ("retrievers.bm25.share", 0.5, "a bm25 retriever has no share; its keys: kind"),
        ("pretrainings.p.retrieval", "gold", "pretrainings.p.retrieval: retrievals.gold is gold, but text to train on"),
        (
            "datasets.qmsum",
            {"reader": "qmsum", "path": "q"},
            "retrievals.gold: gold, but answers of qmsum are summaries",
        ),
    ],
)
def test_controls_that_cannot_be(path, value, message):
    with pytest.raises(ConfigError) as error:
        load_config(changed(path, value, controls()))
    assert message in str(error.value)


def test_degraded_gold_is_gold_too():
    raw = controls()
    raw["retrievers"]["worse"]["base"] = "gold"
    load_config(raw)
    raw["pretrainings"]["p"]["retrieval"] = "worse"
    with pytest.raises(ConfigError, match=r"pretrainings\.p\.retrieval: retrievals\.worse is gold"):
        load_config(raw)


def test_resources_of_models():
    plain = ModelResources(gpus=2)
    assert plain.given() == {"gpus": 2}, "what is not used is left out where it is written down"
    wide = ModelResources(gpus=2, nodes=3, sharded=True)
    assert ModelResources.model_validate_json(wide.model_dump_json()) == wide
    assert (plain.processes_per_node, wide.processes_per_node, ModelResources().processes_per_node) == (2, 2, 1)
    assert ModelResources(processes=4).processes_per_node == 4
    for values, message in (
        ({"sharded": True}, "sharded: true needs several processes"),
        ({"gpus": 2, "processes": 3}, "processes=3 share gpus=2: each needs one of its own"),
    ):
        with pytest.raises(ValueError, match=message):
            ModelResources(**values)
