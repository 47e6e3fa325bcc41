"""config/miniature.yaml: the paper's grid in miniature, replicates, and enough questions over enough documents."""

import itertools

import pytest
from dataset_cases import prepare_split

from retrotune.data.datasets import SPECS
from retrotune.preparing.world import write_world
from retrotune.runtime.files import read_json
from retrotune.study.cells import expand_grid
from retrotune.study.config import read_config
from retrotune.study.stages import WriteWorldParams

METHODS = {"zeroshot", "ptuning", "adapter", "lora", "full"}
DATASETS = {"nq", "triviaqa", "narrativeqa", "qasper", "quality", "qmsum"}


@pytest.fixture
def config(repository):
    return read_config(repository / "config" / "miniature.yaml")


def coordinates(config, cells):
    models, methods, datasets = config.models, config.methods, config.datasets
    return sorted(
        (models[cell.model].family, models[cell.model].size, methods[cell.method].kind, datasets[cell.dataset].reader)
        for cell in cells
    )


def test_main_grid_is_that_of_the_paper(config):
    cells = [cell for cell in expand_grid(config) if config.models[cell.model].replicate_of is None]
    assert len(config.sizes) == 5
    assert coordinates(config, cells) == sorted(itertools.product(("gpt", "retro"), config.sizes, METHODS, DATASETS))
    assert len(cells) == 300


def test_three_sizes_of_each_family_have_two_replicates_zeroshot_and_with_lora(config):
    replicates = {name: entry for name, entry in config.models.items() if entry.replicate_of is not None}
    cells = [cell for cell in expand_grid(config) if cell.model in replicates]
    sizes = {entry.size for entry in replicates.values()}
    assert len(sizes) == 3
    twice = list(itertools.product(("gpt", "retro"), sizes, ("zeroshot", "lora"), DATASETS)) * 2
    assert coordinates(config, cells) == sorted(twice)
    assert len(cells) == 144


def test_models_differ_in_family_size_and_seed_only(config):
    """All are pretrained on the same text for as many tokens; GPT and RETRO have one decoder."""
    recipes = [config.pretrainings[entry.pretraining] for entry in config.models.values()]
    assert len({recipe.model_copy(update={"seed": 0}).model_dump_json() for recipe in recipes}) == 1
    trained = [
        (entry.family, entry.size, recipe.seed) for entry, recipe in zip(config.models.values(), recipes, strict=True)
    ]
    assert len(set(trained)) == len(trained) == 10 + 12
    shapes = [size.model_dump(exclude={"hidden_size", "ffn_size"}) for size in config.sizes.values()]
    assert all(shape == shapes[0] for shape in shapes)
    widths = [size.hidden_size for size in config.sizes.values()]
    assert widths == sorted(set(widths))


def test_every_dataset_has_300_test_questions_over_60_documents(config, tmp_path):
    """In a world of another seed, with little to pretrain on."""
    world = config.world.model_copy(update={"seed": config.world.seed + 1, "pretraining_pages": 1})
    write_world(WriteWorldParams(world=world), tmp_path)
    counts = read_json(tmp_path / "world.json")["counts"]
    assert {entry.reader for entry in config.datasets.values()} == DATASETS
    for entry in config.datasets.values():
        assert entry.max_test is None, "the first N questions may be about fewer documents"
        questions = prepare_split(tmp_path, entry.reader, "test", tmp_path / "prepared" / entry.reader)
        assert len(questions) >= 300
        assert counts[entry.reader]["test"]["documents"] >= 60
        if not SPECS[entry.reader].open_domain:
            assert len({question.doc_id for question in questions}) >= 60
