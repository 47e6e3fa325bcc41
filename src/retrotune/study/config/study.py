"""A study: named entries, the grid over their names, and how cells are scored."""

from typing import Annotated

from pydantic import Field

from retrotune.data.scores import METRICS
from retrotune.entries import Count, Entry, FolderToFill, Name, Place, PositiveInt, Seed
from retrotune.errors import ConfigError
from retrotune.methods import Finetuning, MethodEntry
from retrotune.study.config.data import ChunkingEntry, CorpusEntry, DatasetEntry, World
from retrotune.study.config.indexes import IndexEntry
from retrotune.study.config.models import (
    ModelEntry,
    PretrainingEntry,
    Resources,
    RetrofittingEntry,
    SizeEntry,
    TokenizerEntry,
)
from retrotune.study.config.retrievals import RetrievalEntry
from retrotune.study.config.retrievers import RetrieverEntry


class Evaluation(Entry):
    """How cells are scored."""

    batch_size: PositiveInt = Field(16, description="questions per generation batch")
    metrics: dict[Name, Annotated[tuple[Name, ...], Field(min_length=1)]] = Field(
        default_factory=dict,
        description="metrics by entry of `datasets`, the headline first, such as {nq: [contains]}; the dataset's own "
        "follow",
    )
    resamples: PositiveInt = Field(
        10_000, description="resamples of permutation and bootstrap tests; more where a table has many tests"
    )
    retrieval_depth: Count = Field(
        100, description="passages per test question searched to measure retrieval quality; 0: not measured"
    )


class RuleResources(Entry):
    """What jobs that every cell needs ask from the cluster.

    Training and cells ask for the `resources` of their model, all other jobs for `default-resources` of the profile.
    """

    chunk_corpus: Resources = Field(Resources(mem_mb=8000, runtime=240), description="passages of a corpus")
    embed_passages: Resources = Field(Resources(cpus=2, mem_mb=8000, runtime=240), description="vectors")
    build_index: Resources = Field(Resources(mem_mb=8000, runtime=120), description="FAISS index of a corpus")
    cache_neighbors: Resources = Field(Resources(mem_mb=8000, runtime=120), description="search for questions")
    cache_pretraining_neighbors: Resources = Field(
        Resources(cpus=2, mem_mb=8000, runtime=240), description="search for texts that base models are trained on"
    )
    convert_model: Resources = Field(Resources(mem_mb=12000, runtime=240), description="conversion of a checkpoint")


class SaveEvery(Entry):
    """When training saves its state for a run that is interrupted. Nothing runs again when this changes."""

    seconds: float = Field(
        300, ge=0, description="save when the last checkpoint is so old; more seldom where saving is slow"
    )
    steps: PositiveInt | None = Field(None, description="save after every so many steps too; null: by time alone")


class Grid(Entry):
    """A product of names; null means every entry of that kind."""

    models: tuple[Name, ...] | None = Field(None, description="entries of `models`")
    methods: tuple[Name, ...] | None = Field(None, description="entries of `methods`")
    datasets: tuple[Name, ...] | None = Field(None, description="entries of `datasets`")
    retrievals: tuple[Name, ...] = Field(min_length=1, description="entries of `retrievals`")
    seeds: tuple[Seed, ...] = Field((0,), min_length=1, description="seeds of training")


class Select(Entry):
    """Narrows the grid by its coordinates; each key takes one value or a list."""

    model: str | tuple[str, ...] | None = Field(None, description="entries of `models`")
    family: str | tuple[str, ...] | None = Field(None, description="gpt, retro")
    size: str | tuple[str, ...] | None = Field(None, description="sizes")
    method: str | tuple[str, ...] | None = Field(None, description="entries of `methods`")
    dataset: str | tuple[str, ...] | None = Field(None, description="entries of `datasets`")
    retrieval: str | tuple[str, ...] | None = Field(None, description="entries of `retrievals`")
    seed: Seed | tuple[Seed, ...] | None = Field(None, description="seeds")


class Config(Entry):
    """A study."""

    study: Name = Field(description="name of the study; results lie in `results_dir`/`study`")
    data_root: Place | None = Field(
        None, description="folder with raw files; null: where `world` or the downloads put them"
    )
    results_dir: FolderToFill = Field("results", description="folder of all studies' results")
    resources_dir: FolderToFill | None = Field(None, description="folder shared by cells; null: resources/`study`")
    world: World | None = Field(None, description="generate the demo world as `data_root`")
    datasets: dict[Name, DatasetEntry] = Field(description="question sets")
    corpora: dict[Name, CorpusEntry] = Field(default_factory=dict, description="text collections")
    chunkings: dict[Name, ChunkingEntry] = Field(default_factory=dict, description="ways to cut passages")
    retrievers: dict[Name, RetrieverEntry] = Field(default_factory=dict, description="encoders, BM25, controls")
    indexes: dict[Name, IndexEntry] = Field(default_factory=dict, description="FAISS indexes")
    retrievals: dict[Name, RetrievalEntry] = Field(description="ways to get and give passages")
    tokenizers: dict[Name, TokenizerEntry] = Field(default_factory=dict, description="tokenizers trained here")
    sizes: dict[Name, SizeEntry] = Field(default_factory=dict, description="custom model shapes")
    pretrainings: dict[Name, PretrainingEntry] = Field(default_factory=dict, description="pretraining recipes")
    retrofittings: dict[Name, RetrofittingEntry] = Field(
        default_factory=dict, description="recipes that make RETROs of GPTs"
    )
    models: dict[Name, ModelEntry] = Field(description="base models")
    methods: dict[Name, MethodEntry] = Field(description="fine-tuning methods and their variants")
    finetuning: Finetuning = Field(default_factory=Finetuning, description="defaults of all trained methods")
    rule_resources: RuleResources = Field(
        default_factory=RuleResources, description="jobs without a model, on a cluster"
    )
    max_length: PositiveInt = Field(
        1024, description="tokens per example at most, which each model must take; contexts are cut first"
    )
    published: tuple[Place, ...] = Field(
        ("config/published.csv",),
        description="csv files of published numbers to show beside the study's own, from the working folder or the "
        "checkout of this program; []: none",
    )
    save_every: SaveEvery = Field(default_factory=SaveEvery, description="when training saves its state")
    evaluation: Evaluation = Field(default_factory=Evaluation, description="scoring")
    claims: tuple[Place, ...] = Field(
        ("config/claims.yaml",),
        description="files of claims to test, each below the folder of the run, else below that of the workflow; []: "
        "none",
    )
    grid: tuple[Grid, ...] = Field(
        min_length=1, description="one or several products of names; their union is the study"
    )
    select: Select = Field(default_factory=Select, description="narrows the grid")

    @property
    def resources(self) -> str:
        """Folder of everything that cells share."""
        return self.resources_dir or f"resources/{self.study}"

    @property
    def raw(self) -> str:
        """Folder of raw files."""
        return self.data_root or f"{self.resources}/raw"

    def metrics_of(self, dataset: str) -> tuple[str, ...]:
        """Metrics that a dataset is scored by, each once: the study's own, then the dataset's; the headline first."""
        chosen = self.evaluation.metrics.get(dataset, ())
        return tuple(dict.fromkeys((*chosen, *self.datasets[dataset].record.metrics)))

    def title_of(self, dataset: str) -> str:
        """How tables print a dataset's headline metric."""
        return METRICS[self.metrics_of(dataset)[0]].title

    def is_open_domain(self, dataset: str) -> bool:
        """Whether a dataset's questions retrieve from a corpus rather than from their own document."""
        return self.datasets[dataset].record.open_domain

    def dataset_source(self, dataset: str, retrieval: str, split: str) -> str:
        """Name of what a split's questions retrieve from: the retrieval's corpus, or the split's own documents."""
        if not self.is_open_domain(dataset):
            return f"{dataset}/{split}"
        corpus = self.retrievals[retrieval].corpus
        if corpus is None:
            raise ConfigError(f"retrievals.{retrieval}.corpus is not set, but {dataset} is open-domain: name a corpus")
        return corpus

    def searching(self, retriever: str) -> str:
        """Name of the retriever that searches: a degraded one's base, else itself."""
        return str(self.retrievers[retriever].base or retriever)

    def searches_with(self, retriever: str) -> RetrieverEntry:
        """A retriever as a search uses it: presets filled, and a degraded one with the entry that it starts from."""
        entry = self.retrievers[retriever].for_search()
        if entry.kind != "degraded":
            return entry
        return entry.model_copy(update={"base": self.retrievers[self.searching(retriever)].for_search()})

    def finetuning_of(self, method: str) -> Finetuning:
        """Fine-tuning values of a trained method: the defaults with its overrides."""
        entry = self.methods[method]
        recipe = entry.recipe(self.finetuning)
        if recipe is None:
            raise ConfigError(f"methods.{method} is {entry.kind} and is not trained")
        return recipe
