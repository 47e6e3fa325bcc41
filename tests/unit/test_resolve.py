"""From a configuration to what each stage uses: values as they hold for a cell, and nothing that is not used."""

import copy

import pytest
from test_config import SMALL, changed

from retrotune.data.datasets import SPECS
from retrotune.errors import ConfigError
from retrotune.study.artifacts import Artifacts
from retrotune.study.cells import Cell
from retrotune.study.config import load_config
from retrotune.study.resolve import cell_stages, collecting, resolve
from retrotune.study.stages import STAGES

LORA = Cell("g", "lora", "nq", "bm5", 0)


def stages(raw, cell=LORA):
    return cell_stages(load_config(raw), cell)


def trained_here():
    """SMALL with a dense retriever, controls, and models of both families that are pretrained and retrofitted here."""
    raw = changed("retrievers.minilm", {"query_model": "m", "passage_model": "p", "batch_tokens": 7})
    raw["retrievers"] |= {"gold": {"kind": "gold"}, "worse": {"kind": "degraded", "base": "minilm", "share": 0.3}}
    raw["retrievers"]["worse-gold"] = {"kind": "degraded", "base": "gold"}
    raw["world"] = {}
    raw["corpora"] |= {name: {"reader": "text", "path": f"{name}.txt"} for name in ("pages", "words")}
    raw["indexes"] = {"flat": {"factory": "Flat"}}
    bm5 = raw["retrievals"]["bm5"]
    raw["retrievals"] |= {name: {**bm5, "retriever": name} for name in ("gold", "worse-gold")}
    raw["retrievals"] |= {name: {**bm5, "retriever": name, "index": "flat"} for name in ("minilm", "worse")}
    raw["retrievals"]["reading"] = {
        "retriever": "bm25", "corpus": "pages", "chunking": "words100", "top_k": 2,
        "gpt": {"num_contexts": 2}, "retro": {"num_neighbors": 1},
    }  # fmt: skip
    raw["retrievals"]["fitting"] = {**raw["retrievals"]["reading"], "gpt": {}}
    raw["tokenizers"] = {"bpe": {"corpora": ["words"]}}
    raw["sizes"] = {
        "tiny": {"num_layers": 2, "hidden_size": 8, "num_heads": 2, "ffn_size": 16, "cross_attention_layers": [1]}
    }
    raw["pretrainings"] = {
        "short": {"corpora": ["pages"], "tokenizer": "bpe", "retrieval": "reading", "neighbors_per": "document"}
    }
    raw["retrofittings"] = {
        "fit": {"corpora": ["words"], "retrieval": "fitting", "cross_attention_layers": [0], "steps": 7}
    }
    raw["models"] |= {
        "r": {"family": "retro", "size": "tiny", "pretraining": "short"},
        "p": {"family": "gpt", "size": "tiny", "pretraining": "short", "resources": {"gpus": 1}},
        "large": {"family": "gpt", "size": "xl-as-released", "path": "large", "instruct": True},
        "fitted": {"family": "retro", "size": "tiny", "retrofit_from": "p", "retrofitting": "fit"},
    }
    raw["grid"] = {"retrievals": ["bm5", "minilm", "gold", "none"]}
    return raw


def test_a_cells_stages_in_their_order():
    assert list(stages(SMALL)) == ["finetune_cell", "predict_cell", "score_cell"]
    assert list(stages(SMALL, Cell("g", "zeroshot", "nq", "bm5", 0))) == ["predict_cell", "score_cell"]


def test_a_cell_has_its_own_values():
    used = stages(SMALL)
    assert used["finetune_cell"].recipe.learning_rate == 0.5, "the override of the method"
    assert "finetuning" not in used["finetune_cell"].method.given()
    prompting = used["predict_cell"].prompting
    assert prompting == used["finetune_cell"].prompting, "a question has one prompt"
    assert prompting.template == SPECS["nq"].prompt_of("base")
    assert (prompting.layout.num_contexts, prompting.max_new_tokens) == (5, SPECS["nq"].max_new_tokens)
    assert used["score_cell"].metrics == SPECS["nq"].metrics
    instructed = stages(trained_here(), Cell("large", "lora", "qasper", "bm5", 0))["predict_cell"].prompting
    assert instructed.template == SPECS["qasper"].prompt_of("instruct")


def test_stages_survive_their_text():
    config = load_config(trained_here())
    wildcards = {"corpus": "wiki", "chunking": "words100", "tokenizer": "bpe", "index": "flat", "pretraining": "short"}
    for stage, params in [
        *cell_stages(config, Cell("fitted", "lora", "qasper", "worse", 3)).items(),
        *((stage, resolve(config, stage, wildcards)) for stage in ("chunk_corpus", "train_tokenizer", "build_index")),
        ("cache_pretraining_neighbors", resolve(config, "cache_pretraining_neighbors", wildcards)),
        ("cache_neighbors", resolve(config, "cache_neighbors", {"retrieval": "worse", "dataset": "nq"})),
        ("embed_passages", resolve(config, "embed_passages", {"retriever": "minilm"})),
        ("retrofit_model", resolve(config, "retrofit_model", {"model": "fitted"})),
        ("collect_metrics", resolve(config, "collect_metrics", {})),
    ]:
        again = STAGES[stage].of(params.text())
        assert again == params
        assert again.text() == params.text()
        assert params.recorded()["version"] == STAGES[stage].version


def test_a_text_of_another_version_is_refused():
    params = stages(SMALL)["score_cell"]
    older = params.text().replace(f'"version": {params.version}', '"version": 1')
    with pytest.raises(ConfigError, match="score_cell: planned by version 1, but the code is version"):
        type(params).of(older)


def test_a_seed_is_no_value_of_a_stage():
    config = load_config(SMALL)
    of_seeds = [cell_stages(config, Cell("g", "lora", "nq", "bm5", seed)) for seed in (0, 1)]
    assert of_seeds[0] == of_seeds[1]


def test_passages_are_encoded_without_what_concerns_questions():
    config = load_config(trained_here())
    encoder = resolve(config, "embed_passages", {"retriever": "minilm"}).retriever
    assert (encoder.query_model, encoder.passage_model, encoder.batch_tokens) == ("p", None, 7)
    search = resolve(config, "cache_neighbors", {"retrieval": "minilm", "dataset": "nq"})
    assert (search.retriever.query_model, search.retriever.passage_model) == ("m", "p")


def test_a_degraded_retriever_comes_with_its_base():
    config = load_config(trained_here())
    search = resolve(config, "cache_neighbors", {"retrieval": "worse", "dataset": "nq"})
    base = {"query_model": "m", "passage_model": "p", "batch_tokens": 7}
    assert search.retriever.given() == {"kind": "degraded", "base": base, "share": 0.3}
    alone = resolve(config, "cache_neighbors", {"retrieval": "minilm", "dataset": "nq"})
    assert alone.retriever == search.retriever.searching


def test_only_gold_and_own_documents_may_lack_passages():
    raw = trained_here()
    for dataset, retrieval, lacks in (
        ("nq", "gold", True), ("nq", "worse-gold", True), ("nq", "bm5", False), ("nq", "none", False),
        ("qasper", "bm5", True),
    ):  # fmt: skip
        assert (
            stages(raw, Cell("g", "lora", dataset, retrieval, 0))["predict_cell"].prompting.may_lack_passages == lacks
        )


def test_documents_of_a_question_are_searched_alone():
    config = load_config(trained_here())
    assert resolve(config, "cache_neighbors", {"retrieval": "minilm", "dataset": "qasper"}).own_documents
    assert not resolve(config, "cache_neighbors", {"retrieval": "minilm", "dataset": "nq"}).own_documents


def test_a_degraded_retriever_is_measured_on_what_models_get():
    config = load_config(trained_here())
    depths = {
        name: resolve(config, "measure_retrieval", {"retrieval": name, "dataset": "nq"}).depth
        for name in ("minilm", "worse")
    }
    assert depths == {"minilm": 100, "worse": 5}


def test_what_is_measured():
    raw = trained_here()
    assert Artifacts(load_config(raw)).measured() == [
        (name, data) for data in ("nq", "qasper") for name in ("bm5", "minilm", "gold")
    ]
    assert Artifacts(load_config({**raw, "evaluation": {"retrieval_depth": 0}})).measured() == []


def test_base_models_and_what_they_are_made_with():
    config = load_config(trained_here())
    pretrained = {name: resolve(config, "pretrain_model", {"model": name}) for name in ("r", "p")}
    assert pretrained["r"].size.cross_attention_layers == (1,)
    assert pretrained["r"].recipe == pretrained["p"].recipe
    assert (pretrained["p"].layout.num_contexts, pretrained["r"].layout.num_neighbors) == (2, 1)
    assert list(pretrained["r"].corpora) == ["pages"]
    fitted = resolve(config, "retrofit_model", {"model": "fitted"})
    assert (fitted.source, fitted.recipe.steps, fitted.recipe.cross_attention_layers) == ("p", 7, (0,))
    assert list(fitted.corpora) == ["words"]
    for wildcards, corpora in (({"pretraining": "short"}, ["pages"]), ({"retrofitting": "fit"}, ["words"])):
        search = resolve(config, "cache_pretraining_neighbors", wildcards)
        assert (list(search.corpora), search.source, search.top_k) == (corpora, "pages", 2)


def test_how_the_other_family_reads_does_not_matter():
    raw = trained_here()
    before = resolve(load_config(raw), "pretrain_model", {"model": "r"})
    raw["retrievals"]["reading"]["gpt"] = {"num_contexts": 1}
    assert resolve(load_config(raw), "pretrain_model", {"model": "r"}) == before
    raw = trained_here()
    raw["retrievals"]["bm5"]["retro"] = {"num_neighbors": 5}
    assert stages(raw) == stages(trained_here())


def test_a_changed_gate_makes_a_cell_again():
    def of_gate(**gate):
        raw = changed("models.r", {"family": "retro", "size": "xs", "path": "r", **gate})
        return stages(raw, Cell("r", "lora", "nq", "bm5", 0))

    for off in (of_gate(retrieval_gate=0), of_gate(retrieval_gate=0.5)):
        assert [name for name, params in of_gate().items() if params != off[name]] == ["finetune_cell", "predict_cell"]


def test_labels_are_of_tables_only():
    raw = trained_here()
    raw["grid"] = {
        "models": ["large"],
        "methods": ["zeroshot"],
        "datasets": ["qasper"],
        "retrievals": ["bm5"],
        "seeds": [2],
    }
    [labels] = collecting(load_config(raw)).labels()
    assert labels.model_dump() == {
        "model": "large", "method": "zeroshot", "dataset": "qasper", "retrieval": "bm5", "seed": 2, "family": "gpt",
        "size": "xl-as-released", "instruct": True, "trained": False, "metric": "f1", "retrieval_gate": None,
        "kind": "zeroshot", "replicate_of": None,
    }  # fmt: skip
    other = copy.deepcopy(raw)
    other["models"]["large"]["size"] = "8b"
    cell = Cell("large", "lora", "qasper", "bm5", 2)
    assert stages(other, cell) == stages(raw, cell)


def test_a_download_goes_where_it_is_read():
    raw = {key: value for key, value in SMALL.items() if key != "world"}
    raw = changed("datasets.nq", {"reader": "nq", "path": "there/nq"}, raw)
    config = load_config(changed("corpora.wiki.path", "w/psgs.tsv", raw))
    for source, folder in (("nq", "there/nq"), ("wikipedia", "w")):
        assert resolve(config, "download_source", {"download": source}).folder == folder
