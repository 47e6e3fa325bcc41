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
    cells = expand_grid(config)
    assert len(cells) == 2 * 5 * 5 * 6
    assert {config.models[cell.model].size for cell in cells} == {"xs", "s", "m", "l", "xxl"}


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


def test_resolved_cell_survives_json():
    cell = resolve_cell(load_config(SMALL), Cell("g", "lora", "qasper", "bm5", 3))
    assert type(cell).model_validate_json(cell.model_dump_json()) == cell
    assert cell.prompt_variant == "base"


def test_paths_take_names_and_wildcards():
    paths = Paths("resources/x", "results", "study")
    assert paths.cell(Cell("m", "k", "d", "r", 1), "metrics.json") == "results/study/cells/m/k/d/r/seed1/metrics.json"
    assert paths.examples("{dataset}", "train") == "resources/x/datasets/{dataset}/train.parquet"
