"""Cells: grid expansion, selection, and where files lie."""

import pytest
from test_config import SMALL, changed

from retrotune.errors import ConfigError
from retrotune.study.cells import Cell, expand_grid, grid_cells
from retrotune.study.config import load_config, read_config
from retrotune.study.paths import Paths
from retrotune.study.resolve import resolve


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
        template = resolve(config, "predict_cell", {**vars(cell), "seed": str(cell.seed)}).prompting.template
        assert template == config.datasets[cell.dataset].record.prompt_of("instruct")


def test_paths_take_names_and_wildcards():
    paths = Paths("resources/x", "results", "study")
    assert paths.cell(Cell("m", "k", "d", "r", 1), "metrics.json") == "results/study/cells/m/k/d/r/seed1/metrics.json"
    assert paths.examples("{dataset}", "train") == "resources/x/datasets/{dataset}/train.parquet"
    assert paths.documents("d", "test") == "resources/x/datasets/d/test.documents.parquet"
    assert paths.passages("d/test", "c") == "resources/x/passages/d/test/c.parquet"
    assert paths.so_far("tables") == "results/study/so-far/tables"


def test_work_on_models_lies_with_the_models_not_with_a_study():
    one, two = Paths("resources/x", "results", "one"), Paths("resources/x", "elsewhere", "two")
    assert one.model_work("{model}") == two.model_work("{model}") == "resources/x/work/models/{model}"
    assert one.work("m") != two.work("m")
