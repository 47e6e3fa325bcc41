"""Cells: grid expansion, selection, and what makes a stage run again."""

import pytest
from test_config import SMALL, changed

from retrotune.cells import Cell, Paths, expand_grid, grid_cells, resolve_cell
from retrotune.config import load_config, read_config
from retrotune.errors import ConfigError


def test_grid_is_the_product_of_names():
    cells = expand_grid(load_config(SMALL))
    assert len(cells) == 1 * 2 * 2 * 1 * 1
    assert cells[0] == Cell("g", "zeroshot", "nq", "bm5", 0)
    assert cells[0].name == "g/zeroshot/nq/bm5/seed0"


def test_several_grids_are_united_without_repeats():
    grids = [{"retrievals": ["bm5"]}, {"retrievals": ["bm5", "none"], "methods": ["lora"], "seeds": [0, 1]}]
    cells = grid_cells(load_config(changed("grid", grids)))
    assert len(cells) == len(set(cells)) == 4 + 2 * 2 * 2 - 2


@pytest.mark.parametrize(
    ("select", "count"),
    [({"method": "lora"}, 2), ({"family": "gpt", "dataset": ["nq"]}, 2), ({"seed": 0}, 4), ({"size": "xs"}, 4)],
)
def test_select_narrows(select, count):
    assert len(expand_grid(load_config(changed("select", select)))) == count


def test_select_of_unknown_value_names_the_nearest():
    with pytest.raises(ConfigError, match=r"select.method: 'lorra' is not in the grid; did you mean 'lora'\?"):
        expand_grid(load_config(changed("select", {"method": "lorra"})))


def test_paper_has_the_full_grid(repository):
    config = read_config(repository / "config" / "paper.yaml")
    cells = [cell for cell in expand_grid(config) if not config.models[cell.model].instruct]
    assert len(cells) == 2 * 5 * 5 * 6
    assert {config.models[cell.model].size for cell in cells} == {"xs", "s", "m", "l", "xxl"}


def test_paper_compares_base_with_instruct_retro(repository):
    """In the two sizes that were released, as published (encoder off) and with the encoder on; one layout for all."""
    config = read_config(repository / "config" / "paper.yaml")
    cells = [cell for cell in expand_grid(config) if config.models[cell.model].instruct]
    assert len(cells) == 2 * 2 * 4 * 6
    models = [config.models[name] for name in {cell.model for cell in cells}]
    assert sorted((model.size, model.retrieval_gate) for model in models) == [
        ("m", 0.0), ("m", 1.0), ("xxl", 0.0), ("xxl", 1.0)
    ]  # fmt: skip
    assert len({model.checkpoint.path for model in models}) == 2
    for cell in cells:
        base = Cell(f"retro-{config.models[cell.model].size}", cell.method, cell.dataset, cell.retrieval, cell.seed)
        assert base in grid_cells(config), "each has its base counterpart in the main grid"
        assert resolve_cell(config, cell).prompt_variant == "instruct"


def test_a_stage_depends_only_on_what_it_uses():
    def stages(raw):
        config = load_config(raw)
        cell = resolve_cell(config, Cell("g", "lora", "nq", "bm5", 0))
        return {stage: cell.for_stage(stage) for stage in ("finetune", "predict", "score")}

    before = stages(SMALL)
    learning = stages(changed("methods.lora.finetuning", {"learning_rate": 0.1}))
    assert learning["finetune"] != before["finetune"]
    assert learning["predict"] != before["predict"], "the method's entry names its overrides"
    epochs = stages({**SMALL, "finetuning": {"epochs": 9}})
    assert epochs["finetune"] != before["finetune"]
    assert epochs["predict"] == before["predict"]
    scoring = stages({**SMALL, "evaluation": {"bootstrap_samples": 10}})
    assert scoring["score"] != before["score"]
    assert (scoring["finetune"], scoring["predict"]) == (before["finetune"], before["predict"])
    layout = stages(changed("retrievals.bm5.retro", {"num_neighbors": 5}))
    assert layout == before, "the other family's layout does not matter to this cell"
    moved = stages(changed("models.g.resources", {"gpus": 4}))
    assert moved == before


def test_a_changed_gate_runs_every_stage_of_its_cells_again():
    def stages(**gate):
        raw = changed("models.r", {"family": "retro", "size": "xs", "path": "r", **gate})
        cell = resolve_cell(load_config(raw), Cell("r", "lora", "nq", "bm5", 0))
        return [cell.for_stage(stage).model_dump_json() for stage in ("finetune", "predict", "score")]

    for off in (stages(retrieval_gate=0), stages(retrieval_gate=0.5)):
        assert all(one != other for one, other in zip(stages(), off, strict=True))


def test_resolved_cell_survives_json():
    cell = resolve_cell(load_config(SMALL), Cell("g", "lora", "qasper", "bm5", 3))
    for stage in ("finetune", "predict", "score"):
        part = cell.for_stage(stage)
        assert type(part).model_validate_json(part.model_dump_json()) == part
    assert cell.prompt_variant == "base"
    assert cell.model_dump(include={"model", "seed"}) == {"model": "g", "seed": 3}


def trained_here():
    """SMALL with a dense retriever and a RETRO of its own size that is pretrained here."""
    raw = changed("retrievers.minilm", {"query_model": "m", "batch_tokens": 7})
    raw["world"] = {}
    raw["corpora"]["pages"] = {"reader": "text", "path": "pages.txt"}
    raw["corpora"]["words"] = {"reader": "text", "path": "words.txt"}
    raw["indexes"] = {"flat": {"factory": "Flat"}, "unused": {"factory": "IVF16,Flat"}}
    raw["retrievals"]["dense"] = {**raw["retrievals"]["bm5"], "retriever": "minilm", "index": "flat"}
    raw["retrievals"]["reading"] = {
        "retriever": "bm25", "corpus": "pages", "chunking": "words100", "top_k": 2,
        "gpt": {"num_contexts": 2}, "retro": {"num_neighbors": 1},
    }  # fmt: skip
    raw["tokenizers"] = {"bpe": {"corpora": ["words"]}}
    raw["sizes"] = {
        "tiny": {"num_layers": 2, "hidden_size": 8, "num_heads": 2, "ffn_size": 16, "cross_attention_layers": [1]}
    }
    raw["pretrainings"] = {
        "short": {"corpora": ["pages"], "tokenizer": "bpe", "retrieval": "reading", "neighbors_per": "document"}
    }
    raw["models"]["r"] = {"family": "retro", "size": "tiny", "pretraining": "short"}
    raw["grid"] = {"retrievals": ["bm5", "dense", "none"]}
    return raw


def shared_names(raw, *cell):
    shared = resolve_cell(load_config(raw), Cell(*cell, 0)).shared
    return {section: sorted(entries) for section, entries in shared.items()}


def test_the_score_records_the_entries_that_shared_inputs_were_made_with():
    raw = trained_here()
    pretraining = {
        "pretrainings": ["short"],
        "tokenizers": ["bpe"],
        "retrievals": ["reading"],
        "sizes": ["tiny"],
        "retrievers": ["bm25"],
        "chunkings": ["words100"],
        "corpora": ["pages", "words"],
    }
    assert shared_names(raw, "r", "lora", "nq", "none") == pretraining
    assert shared_names(raw, "r", "lora", "nq", "dense") == {
        **pretraining,
        "retrievers": ["bm25", "minilm"],
        "corpora": ["pages", "wiki", "words"],
        "indexes": ["flat"],
    }
    fetched = {"retrievers": ["minilm"], "chunkings": ["words100"]}
    assert shared_names(raw, "g", "lora", "qasper", "dense") == fetched, "a document of its own has no index"
    assert shared_names(raw, "g", "lora", "nq", "bm5") == {
        "retrievers": ["bm25"], "chunkings": ["words100"], "corpora": ["wiki"]
    }  # fmt: skip
    assert shared_names(raw, "g", "lora", "nq", "none") == {}
    shared = resolve_cell(load_config(raw), Cell("r", "lora", "nq", "dense", 0)).shared
    assert shared["retrievers"]["minilm"]["batch_tokens"] == 7
    assert shared["sizes"]["tiny"]["cross_attention_layers"] == [1]


def test_a_degraded_retriever_is_recorded_with_its_base():
    raw = trained_here()
    raw["retrievers"]["worse"] = {"kind": "degraded", "base": "minilm", "share": 0.5}
    raw["retrievals"]["worse"] = {**raw["retrievals"]["dense"], "retriever": "worse"}
    shared = resolve_cell(load_config(raw), Cell("g", "lora", "nq", "worse", 0)).shared
    assert shared["retrievers"]["worse"] == {"kind": "degraded", "base": "minilm", "share": 0.5, "seed": 0}
    assert shared["retrievers"]["minilm"]["query_model"] == "m"
    assert set(shared["indexes"]) == {"flat"}


def test_only_gold_may_lack_passages():
    raw = trained_here()
    raw["retrievers"] |= {"gold": {"kind": "gold"}, "worse": {"kind": "degraded", "base": "gold"}}
    raw["retrievals"] |= {name: {**raw["retrievals"]["bm5"], "retriever": name} for name in ("gold", "worse")}
    config = load_config(raw)
    for retrieval, lacks in (("gold", True), ("worse", True), ("bm5", False), ("none", False)):
        cell = resolve_cell(config, Cell("g", "lora", "nq", retrieval, 0))
        assert cell.may_lack_passages == lacks
        assert ("may_lack_passages" in cell.for_stage("predict").model_dump()) == lacks


def test_the_depth_of_measuring_retrieval_concerns_no_cell():
    raw = trained_here()
    cells = []
    for depth in (0, 50):
        raw["evaluation"] = {"retrieval_depth": depth}
        cells.append(resolve_cell(load_config(raw), Cell("g", "lora", "nq", "bm5", 0)))
    for stage in ("finetune", "predict", "score"):
        assert cells[0].for_stage(stage) == cells[1].for_stage(stage)


def test_the_score_records_what_a_retrofitted_model_and_its_source_were_made_with():
    raw = trained_here()
    raw["models"]["base"] = {"family": "gpt", "size": "tiny", "pretraining": "short", "resources": {"gpus": 1}}
    raw["retrievals"]["fitting"] = raw["retrievals"]["reading"] | {"corpus": "wiki", "gpt": {}}
    raw["retrofittings"] = {"fit": {"corpora": ["wiki"], "retrieval": "fitting", "cross_attention_layers": [0]}}
    raw["models"]["fitted"] = {"family": "retro", "size": "tiny", "retrofit_from": "base", "retrofitting": "fit"}
    assert shared_names(raw, "fitted", "lora", "nq", "none") == {
        "retrofittings": ["fit"],
        "models": ["base"],
        "pretrainings": ["short"],
        "tokenizers": ["bpe"],
        "retrievals": ["fitting", "reading"],
        "sizes": ["tiny"],
        "retrievers": ["bm25"],
        "chunkings": ["words100"],
        "corpora": ["pages", "wiki", "words"],
    }
    shared = resolve_cell(load_config(raw), Cell("fitted", "lora", "nq", "none", 0)).shared
    assert shared["models"]["base"]["resources"]["gpus"] == 0, "where the source was trained does not matter"
    assert shared["retrofittings"]["fit"]["cross_attention_layers"] == [0]


def test_shared_entries_are_params_of_scoring_only():
    def stages(raw):
        cell = resolve_cell(load_config(raw), Cell("r", "lora", "nq", "dense", 0))
        return {stage: cell.for_stage(stage).model_dump(mode="json") for stage in ("finetune", "predict", "score")}

    before = stages(trained_here())
    assert "shared" not in before["finetune"].keys() | before["predict"].keys()
    raw = trained_here()
    raw["pretrainings"]["short"]["steps"] = 7
    raw["indexes"]["flat"]["factory"] = "HNSW32"
    after = stages(raw)
    assert (after["finetune"], after["predict"]) == (before["finetune"], before["predict"])
    assert after["score"]["shared"]["pretrainings"]["short"]["steps"] == 7
    assert after["score"]["shared"]["indexes"]["flat"]["factory"] == "HNSW32"
    raw = trained_here()
    raw["retrievals"]["reading"]["gpt"] = {"num_contexts": 1}
    assert stages(raw) == before, "how the other family reads in pretraining does not matter to this cell"


def test_paths_take_names_and_wildcards():
    paths = Paths("resources/x", "results", "study")
    assert paths.cell(Cell("m", "k", "d", "r", 1), "metrics.json") == "results/study/cells/m/k/d/r/seed1/metrics.json"
    assert paths.examples("{dataset}", "train") == "resources/x/datasets/{dataset}/train.parquet"
    assert paths.so_far("tables") == "results/study/so-far/tables"


def test_work_on_models_lies_with_the_models_not_with_a_study():
    one, two = Paths("resources/x", "results", "one"), Paths("resources/x", "elsewhere", "two")
    assert one.model_work("{model}") == two.model_work("{model}") == "resources/x/work/models/{model}"
    assert one.work("m") != two.work("m")
