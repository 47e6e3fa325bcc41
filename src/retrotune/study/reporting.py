"""Which tables and figures a study has, and which published numbers belong beside its own."""

from collections.abc import Iterator

from retrotune.study.cells import Cell, expand_grid
from retrotune.study.config import Config, ModelEntry
from retrotune.study.config.published import PublishedNumber, read_published
from retrotune.study.places import locate_file
from retrotune.study.stages import Beside


def table_names(config: Config) -> tuple[str, ...]:
    """Tables that are made of a study's results; retrievals, instruct and published where the study has some."""
    cells = expand_grid(config)
    names = ["comparison", "comparison_long", "parameters", "cost", "cost_totals"]
    if len({cell.retrieval for cell in cells}) > 1:
        names.append("retrievals")
    models = [config.models[name] for name in dict.fromkeys(cell.model for cell in cells)]
    tuned = {(model.family, model.size) for model in models if model.instruct}
    if tuned & {(model.family, model.size) for model in models if not model.instruct}:
        names.append("instruct")
    if config.published:
        names.append("published")
    return tuple(names)


def figure_names(config: Config) -> tuple[str, ...]:
    """Figures that are made of a study's results.

    Gains over zero-shot and learning curves where the study has some; what passages hold where they can hold answers.
    """
    names = ["scaling", "cost"]
    settings: dict[bool, set[tuple[str, str, str]]] = {True: set(), False: set()}
    for cell in expand_grid(config):
        settings[config.methods[cell.method].trained].add((cell.model, cell.dataset, cell.retrieval))
    if settings[True] & settings[False]:
        names.append("gains")
    if settings[True]:
        names.append("learning")
    if any(
        config.retrievals[retrieval].retriever is not None and config.datasets[dataset].record.gold
        for _, dataset, retrieval in settings[True] | settings[False]
    ):
        names += ["quadrants", "recall"]
    return tuple(names)


def beside(config: Config) -> Iterator[Beside]:
    """The published numbers that belong to a study, each with the names of the cells that it stands beside."""
    cells = expand_grid(config)
    for file in config.published:
        for number in read_published(locate_file(file)):
            for dataset in dict.fromkeys(cell.dataset for cell in cells):
                if found := [cell for cell in cells if cell.dataset == dataset and _matches(config, cell, number)]:
                    yield Beside(
                        number=number,
                        dataset=dataset,
                        models=tuple(dict.fromkeys(cell.model for cell in found)),
                        methods=tuple(dict.fromkeys(cell.method for cell in found)),
                        retrievals=tuple(dict.fromkeys(cell.retrieval for cell in found)),
                    )


def _matches(config: Config, cell: Cell, number: PublishedNumber) -> bool:
    """Whether a number is of the same family, size, method, data and metric as a cell, as far as the study tells."""
    model = config.models[cell.model]
    return (
        config.datasets[cell.dataset].reader == number.dataset
        and config.title_of(cell.dataset) == number.metric
        and (model.family, model.size, model.instruct) == (number.family, number.size, number.instruct)
        and number.encoder in (None, _encoder(model))
        and (config.retrievals[cell.retrieval].retriever is not None) == number.passages
        and config.methods[cell.method].kind == number.method
    )


def _encoder(model: ModelEntry) -> str:
    """The state of a model's neighbor encoder in the words of published numbers; a scaled one is in none."""
    if model.retrieval_gate in (None, 1):
        return "on"
    return "off" if model.retrieval_gate == 0 else "scaled"
