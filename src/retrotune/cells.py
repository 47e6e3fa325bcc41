"""Cells and paths: the grid of a study, and the one place that knows where every file lies.

A cell is one (model, method, dataset, retrieval, seed). Paths take names or Snakemake wildcards alike.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import SerializerFunctionWrapHandler, model_serializer

from retrotune.config import (
    OPEN_DOMAIN,
    BaseTraining,
    Config,
    DatasetEntry,
    Entry,
    Evaluation,
    Finetuning,
    MethodEntry,
    ModelEntry,
    ModelResources,
    Passages,
    RetrievalEntry,
    nearest,
)
from retrotune.errors import ConfigError

COORDINATES = ("model", "method", "dataset", "retrieval", "seed")


@dataclass(frozen=True, order=True)
class Cell:
    """The unit of work, of cost, of rerun and of reading results."""

    model: str
    method: str
    dataset: str
    retrieval: str
    seed: int

    @property
    def name(self) -> str:
        """Relative folder of the cell, also its name in messages."""
        return f"{self.model}/{self.method}/{self.dataset}/{self.retrieval}/seed{self.seed}"


def _selects(wanted: Any, value: Any) -> bool:
    if wanted is None:
        return True
    return str(value) in [str(item) for item in (wanted if isinstance(wanted, tuple) else (wanted,))]


def grid_cells(config: Config) -> list[Cell]:
    """All cells of the study, the union of its grids, before `select`."""
    cells: dict[Cell, None] = {}
    for grid in config.grid:
        axes = (
            grid.models or tuple(config.models),
            grid.methods or tuple(config.methods),
            grid.datasets or tuple(config.datasets),
            grid.retrievals,
            grid.seeds,
        )
        cells.update((Cell(*point), None) for point in itertools.product(*axes))
    return list(cells)


def expand_grid(config: Config) -> list[Cell]:
    """Cells of the study, narrowed by `select`.

    Raises `ConfigError` if a selected value is no coordinate of the grid (with the nearest one) or nothing is left.
    """
    cells = grid_cells(config)
    select = config.select

    def coordinates(cell: Cell) -> dict[str, Any]:
        model = config.models[cell.model]
        return {**{key: getattr(cell, key) for key in COORDINATES}, "family": model.family, "size": model.size}

    points = [coordinates(cell) for cell in cells]
    for key, wanted in select.model_dump(exclude_none=True).items():
        known = sorted({str(point[key]) for point in points})
        for value in wanted if isinstance(wanted, tuple | list) else (wanted,):
            if str(value) not in known:
                raise ConfigError(f"select.{key}: {value!r} is not in the grid; {nearest(str(value), known)}")
    chosen = [
        cell
        for cell, point in zip(cells, points, strict=True)
        if all(_selects(getattr(select, key), value) for key, value in point.items())
    ]
    if not chosen:
        raise ConfigError(f"select leaves no cell of {len(cells)}: {select.model_dump(exclude_none=True)}")
    return chosen


def is_open_domain(config: Config, dataset: str) -> bool:
    """Whether a dataset's questions retrieve from a corpus rather than from their own document."""
    return config.datasets[dataset].reader in OPEN_DOMAIN


class Paths:
    """Where the files of one study lie. `source` is a corpus, or a dataset with documents of its own."""

    def __init__(self, resources: str, results: str, study: str) -> None:
        self.resources = resources
        self.name = study
        self.study = f"{results}/{study}"

    @classmethod
    def of(cls, config: Config) -> "Paths":
        """Paths of a configuration."""
        return cls(config.resources, config.results_dir, config.study)

    # raw files -----------------------------------------------------------------------------------------------------
    def world(self) -> str:
        """Last file of the demo world."""
        return f"{self.resources}/raw/world.json"

    def downloaded(self, source: str) -> str:
        """Written when all files of an official source are there."""
        return f"{self.resources}/raw/{source}.downloaded.json"

    # shared by all cells -------------------------------------------------------------------------------------------
    def examples(self, dataset: str, split: str) -> str:
        """Questions of one split (train, test): parquet, one row per `Example`."""
        return f"{self.resources}/datasets/{dataset}/{split}.parquet"

    def documents(self, dataset: str) -> str:
        """Documents of a document dataset: parquet with doc_id, title, text."""
        return f"{self.resources}/datasets/{dataset}/documents.parquet"

    def passages(self, source: str, chunking: str) -> str:
        """Passages: parquet with passage_id, doc_id, title, text; row number = vector number."""
        return f"{self.resources}/passages/{source}/{chunking}.parquet"

    def embeddings(self, retriever: str, source: str, chunking: str) -> str:
        """Manifest of the numbered vector blocks that lie in the folder of the same name without `.json`."""
        return f"{self.resources}/embeddings/{retriever}/{source}/{chunking}.json"

    def index(self, retriever: str, source: str, chunking: str, index: str) -> str:
        """What an index is made of; its shards lie in the folder of the same name, measurements in `.manifest.json`."""
        return f"{self.resources}/indexes/{retriever}/{source}/{chunking}/{index}.json"

    def neighbors(self, retrieval: str, dataset: str, split: str) -> str:
        """Neighbor cache: parquet with question_id, rank, passage_id, title, text, score; blocks in a folder beside."""
        return f"{self.resources}/neighbors/{retrieval}/{dataset}/{split}.parquet"

    def quality(self, retrieval: str, dataset: str) -> str:
        """How well a retrieval finds what a dataset's test questions ask for."""
        return f"{self.resources}/neighbors/{retrieval}/{dataset}/quality.json"

    def tokenizer(self, tokenizer: str) -> str:
        """A trained tokenizer's file in tokenizers' JSON format."""
        return f"{self.resources}/tokenizers/{tokenizer}/tokenizer.json"

    def pretraining_neighbors(self, pretraining: str, chunk_length: int | str) -> str:
        """Neighbors of pretraining chunks of a length (0: of whole documents).

        Manifest of the blocks of passage rows that lie in the folder of the same name without `.json`.
        """
        return f"{self.resources}/pretraining/{pretraining}/neighbors-{chunk_length}.json"

    def retrofitting_neighbors(self, retrofitting: str, model: str, chunk_length: int | str) -> str:
        """As `pretraining_neighbors`, of chunks that the tokenizer of the GPT `model` cuts."""
        return f"{self.resources}/retrofitting/{retrofitting}/{model}/neighbors-{chunk_length}.json"

    def model(self, model: str) -> str:
        """Folder of a base model in transformers layout, tokenizer included; its manifest is written last."""
        return f"{self.resources}/models/{model}"

    def model_manifest(self, model: str) -> str:
        """Manifest of a base model: written last, its existence says that the model is whole."""
        return f"{self.model(model)}/manifest.json"

    def packages(self) -> str:
        """Folder of files taken out of Python packages, one folder per package and version."""
        return f"{self.resources}/packages"

    def model_work(self, model: str) -> str:
        """Work folder of a base model's training, beside the model, which studies with these resources share."""
        return f"{self.resources}/work/models/{model}"

    # cells ---------------------------------------------------------------------------------------------------------
    def cell(self, cell: Cell | str, file: str = "") -> str:
        """Folder of a cell, or a file in it."""
        name = cell if isinstance(cell, str) else cell.name
        return f"{self.study}/cells/{name}" + (f"/{file}" if file else "")

    def work(self, name: str) -> str:
        """Work folder that no rule declares: checkpoints and partial results survive a failed job there."""
        return f"{self.study}/work/{name}"

    def log(self, name: str) -> str:
        """Log of one job: rule, then what it worked on."""
        return f"logs/{self.name}/{name}"

    def cell_logs(self, cell: Cell) -> list[str]:
        """Logs of a cell's jobs."""
        return [self.log(f"{rule}/{cell.name}.log") for rule in ("finetune_cell", "predict_cell", "score_cell")]

    def model_logs(self, model: str) -> list[str]:
        """Logs of the jobs that may have made a base model."""
        rules = ("pretrain_model", "retrofit_model", "fetch_model", "convert_model")
        return [self.log(f"{rule}/{model}.log") for rule in rules]

    def report(self, file: str) -> str:
        """A table, figure or page made from all cells."""
        return f"{self.study}/{file}"

    def so_far(self, file: str = "") -> str:
        """Folder of what `retrotune tables` makes of unfinished or selected cells, or a file in it.

        The workflow never writes there: what lies in its own folders is what it made of all its cells.
        """
        return f"{self.study}/so-far" + (f"/{file}" if file else "")

    def metrics(self, cells: Iterable[Cell]) -> list[str]:
        """The `metrics.json` of each cell."""
        return [self.cell(cell, "metrics.json") for cell in cells]


class ResolvedCell(Entry):
    """Everything that determines one cell's result; its rules pass it on, `config.yaml` in its folder keeps it.

    `shared` holds, by section and name as in the configuration, the entries that made what the cell shares with others
    (neighbors, base model). They are recorded with the score; other stages see their effect in their input files.
    """

    model: str
    method: str
    dataset: str
    retrieval: str
    seed: int
    family: str
    size: str
    model_entry: ModelEntry
    method_entry: MethodEntry
    dataset_entry: DatasetEntry
    retrieval_entry: RetrievalEntry
    finetuning: Finetuning | None
    evaluation: Evaluation
    max_length: int
    shared: dict[str, dict[str, dict[str, Any]]] | None = None
    may_lack_passages: bool = False
    """Whether an open-domain question may have fewer passages than the layout asks for: gold finds what there is."""

    @model_serializer(mode="wrap")
    def _without_what_says_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what a stage does not use or is the rule, as everything written here is part of rules' params."""
        values: dict[str, Any] = handler(self)
        if self.shared is None:
            values.pop("shared", None)
        if not self.may_lack_passages:
            values.pop("may_lack_passages", None)
        return values

    @property
    def cell(self) -> Cell:
        """The cell's coordinates."""
        return Cell(self.model, self.method, self.dataset, self.retrieval, self.seed)

    @property
    def passages(self) -> Passages:
        """How this cell's family gets its passages."""
        return self.retrieval_entry.passages(self.family)

    @property
    def prompt_variant(self) -> str:
        """Prompt variant, base or instruct: the dataset entry's, else as the model is."""
        return self.dataset_entry.prompt or ("instruct" if self.model_entry.instruct else "base")

    def for_stage(self, stage: str) -> "ResolvedCell":
        """The same cell with everything that a stage (finetune, predict, score) does not use set to its default.

        What remains is what makes the stage's rule run again when it changes.
        """
        unused: dict[str, Any] = {
            "model_entry": self.model_entry.model_copy(update={"resources": ModelResources()}),
            "retrieval_entry": _for_family(self.retrieval_entry, self.family),
        }
        if stage != "score":
            unused["shared"] = None
        if stage == "finetune":
            unused["evaluation"] = Evaluation()
        elif stage == "predict":
            unused["finetuning"] = None
            unused["evaluation"] = Evaluation(batch_size=self.evaluation.batch_size)
        else:
            depth = Evaluation().retrieval_depth
            unused["evaluation"] = self.evaluation.model_copy(update={"retrieval_depth": depth})
        return self.model_copy(update=unused)


def resolve_cell(config: Config, cell: Cell) -> ResolvedCell:
    """Gather the entries that a cell names."""
    model = config.models[cell.model]
    method = config.methods[cell.method]
    return ResolvedCell(
        model=cell.model,
        method=cell.method,
        dataset=cell.dataset,
        retrieval=cell.retrieval,
        seed=cell.seed,
        family=model.family,
        size=model.size,
        model_entry=model,
        method_entry=method,
        dataset_entry=config.datasets[cell.dataset],
        retrieval_entry=config.retrievals[cell.retrieval],
        finetuning=method.recipe(config.finetuning),
        evaluation=config.evaluation,
        max_length=config.max_length,
        shared=_shared_entries(config, cell),
        may_lack_passages=_is_gold(config, cell.retrieval),
    )


def _is_gold(config: Config, retrieval: str) -> bool:
    retriever = config.retrievals[retrieval].retriever
    return retriever is not None and config.retrievers[config.searching(retriever)].kind == "gold"


def _for_family(entry: RetrievalEntry, family: str) -> RetrievalEntry:
    """A retrieval whose layout for the other family is set to its default."""
    return entry.model_copy(update={("retro" if family == "gpt" else "gpt"): Passages()})


def _shared_entries(config: Config, cell: Cell) -> dict[str, dict[str, dict[str, Any]]]:
    """Entries that made a cell's neighbors and base model, those only that were used."""
    model = config.models[cell.model]
    named = _searched_with(config, cell.retrieval, is_open_domain(config, cell.dataset))
    named += _made_with(config, model)
    shared: dict[str, dict[str, dict[str, Any]]] = {}
    for section, name in named:
        entry = getattr(config, section).get(name)
        if isinstance(entry, RetrievalEntry):
            entry = _for_family(entry, model.family)
        if isinstance(entry, ModelEntry):
            entry = entry.model_copy(update={"resources": ModelResources()})
        if entry is not None:
            shared.setdefault(section, {})[str(name)] = entry.model_dump(mode="json")
    return shared


def _searched_with(config: Config, retrieval: str, in_corpus: bool) -> list[tuple[str, str | None]]:
    """Sections and names of what a retrieval searches with; a question's own document has no corpus and no index."""
    entry = config.retrievals[retrieval]
    if entry.retriever is None:
        return []
    assert entry.chunking is not None  # as the entry checks
    searching = config.searching(entry.retriever)
    named: list[tuple[str, str | None]] = [
        ("retrievers", entry.retriever),
        ("retrievers", searching),
        ("chunkings", entry.chunking),
    ]
    if (tokenizer := config.chunkings[entry.chunking].tokenizer) is not None:
        named += [("tokenizers", tokenizer), *(("corpora", name) for name in config.tokenizers[tokenizer].corpora)]
    if in_corpus:
        named.append(("corpora", entry.corpus))
        if config.retrievers[searching].kind == "dense":
            named.append(("indexes", entry.index))
    return named


def _made_with(config: Config, model: ModelEntry) -> list[tuple[str, str | None]]:
    """Sections and names of what a base model was made with, those of the GPT that it was made from included."""
    named: list[tuple[str, str | None]] = []
    if model.pretraining is not None:
        pretraining = config.pretrainings[model.pretraining]
        tokenizer = pretraining.tokenizer
        named += [("pretrainings", model.pretraining), ("tokenizers", tokenizer), ("sizes", model.size)]
        named += [("corpora", name) for name in config.tokenizers[tokenizer].corpora]
        named += _learned_from(config, pretraining)
    if model.retrofit_from is not None and model.retrofitting is not None:
        named += [("retrofittings", model.retrofitting), ("models", model.retrofit_from)]
        named += _learned_from(config, config.retrofittings[model.retrofitting])
        named += _made_with(config, config.models[model.retrofit_from])
    return named


def _learned_from(config: Config, entry: BaseTraining) -> list[tuple[str, str | None]]:
    """Sections and names of the text that base models learn from, and of its passages."""
    named: list[tuple[str, str | None]] = [("corpora", name) for name in entry.corpora]
    if entry.retrieval is not None:
        named += [("retrievals", entry.retrieval), *_searched_with(config, entry.retrieval, in_corpus=True)]
    return named
