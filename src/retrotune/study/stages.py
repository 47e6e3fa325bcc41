"""Stages: what each one uses of a study, and the number of its code.

A stage's class is its declaration: the resolved values that the stage works with, not the fields that somebody wrote.
The stage's rule passes `text()` of it, its function takes it and nothing else of the configuration, and `explain`
prints it. So a rule runs again exactly when a value changes that its stage uses, or the stage's number: Snakemake does
not see changes inside the package. Raise `version` when a stage's output changes for the same input, or a default does.

`study.resolve` makes these values from a configuration. What reruns nothing is listed there, with the reasons.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from retrotune.data.datasets.base import Template
from retrotune.entries import Count, Entry, Family, PositiveInt
from retrotune.errors import ConfigError
from retrotune.study.config import (
    Claim,
    CorpusEntry,
    Finetuning,
    IndexEntry,
    MethodEntry,
    PassageLayout,
    Recipe,
    RetrieverEntry,
    RetrofittingRecipe,
    SizeEntry,
    World,
)
from retrotune.study.config.published import PublishedNumber

Files = dict[str, tuple[int, int]]
"""Size and time (ns) of files outside of the workflow, by name: planning compares these, jobs record digests."""


class StageParams(Entry):
    """Base of what stages use; `stage` is the name, `version` the number of the stage's code."""

    stage: ClassVar[str]
    version: ClassVar[int]

    def text(self) -> str:
        """JSON with sorted keys, the stage's number in it, and without defaults: a new field reruns nothing."""
        return json.dumps({"version": self.version, **self.given()}, sort_keys=True)

    @classmethod
    def of(cls, text: str) -> Self:
        """What `text` says; `ConfigError` if it is of another version of the stage."""
        values = json.loads(text)
        version = values.pop("version")
        if version != cls.version:
            raise ConfigError(
                f"{cls.stage}: planned by version {version}, but the code is version {cls.version} now: it was changed "
                "while the workflow ran; start snakemake again"
            )
        return cls.model_validate(values)

    def recorded(self) -> dict[str, Any]:
        """All values, defaults included, as results keep them."""
        return {"version": self.version, **self.model_dump(mode="json")}


class ReadsRaw(StageParams):
    """Base of what reads raw files; `raw` is a digest of names, sizes and times of those outside of the workflow."""

    raw: str = ""


# raw files, passages ------------------------------------------------------------------------------------------------
class WriteWorldParams(StageParams):
    """The demo world."""

    stage = "write_world"
    version = 1

    world: World


class DownloadSourceParams(StageParams):
    """Official files, and where they go below the folder of raw files."""

    stage = "download_source"
    version = 1

    source: str
    folder: str


class PrepareParams(ReadsRaw):
    """One split of a dataset."""

    split: ClassVar[str]

    reader: str
    reader_version: int
    layout: str
    path: str
    limit: Count | None = None
    skip_bad_records: bool = False


class PrepareTestParams(PrepareParams):
    """The test split."""

    stage, split = "prepare_test", "test"
    version = 1


class PrepareTrainParams(PrepareParams):
    """The training split. It is held against the whole raw test split, whatever is used of that."""

    stage, split = "prepare_train", "train"
    version = 1


class ChunkParams(StageParams):
    """How documents are cut into passages."""

    stage = "chunk_documents"
    version = 2

    passage_words: PositiveInt | None = None
    passage_tokens: PositiveInt | None = None


class ChunkCorpusParams(ChunkParams, ReadsRaw):
    """A corpus and how it is cut."""

    stage = "chunk_corpus"

    corpus: CorpusEntry


class TrainTokenizerParams(ReadsRaw):
    """Text and size of a tokenizer."""

    stage = "train_tokenizer"
    version = 1

    corpora: dict[str, CorpusEntry]
    vocab_size: PositiveInt


# retrieval ----------------------------------------------------------------------------------------------------------
class EmbedParams(StageParams):
    """The encoder of passages: `retriever` with what concerns questions left out."""

    stage = "embed_passages"
    version = 3

    retriever: RetrieverEntry
    files: Files = Field(default_factory=dict)


class BuildIndexParams(StageParams):
    """An index: its factory string and settings."""

    stage = "build_index"
    version = 2

    index: IndexEntry


class Searching(StageParams):
    """What searches, and the files of its encoder's folder."""

    retriever: RetrieverEntry
    files: Files = Field(default_factory=dict)

    def recorded(self) -> dict[str, Any]:
        """All values, but of a retriever those only that are no defaults: the keys of other kinds say nothing."""
        return super().recorded() | {"retriever": self.retriever.given()}


class CacheNeighborsParams(Searching):
    """The search for a dataset's questions, of all passages or, `own_documents`, of those of their own documents."""

    stage = "cache_neighbors"
    version = 1

    top_k: Count
    own_documents: bool
    continuation: bool = False


class CacheTextNeighborsParams(Searching, ReadsRaw):
    """The search for text that base models learn from; `source` is the corpus of the passages."""

    stage = "cache_pretraining_neighbors"
    version = 3

    top_k: Count
    source: str
    corpora: dict[str, CorpusEntry]
    continuation: bool = False


class MeasureRetrievalParams(Searching):
    """The search that measures a retrieval, `depth` passages per question."""

    stage = "measure_retrieval"
    version = 3

    depth: PositiveInt
    own_documents: bool


# base models --------------------------------------------------------------------------------------------------------
class _TrainBaseParams(ReadsRaw):
    """Text, and where the family gets its passages (None: no retrieval)."""

    family: Family
    corpora: dict[str, CorpusEntry]
    layout: PassageLayout | None = None


class PretrainParams(_TrainBaseParams):
    """A model that is trained from scratch; `size` is one of the paper's or a shape."""

    stage = "pretrain_model"
    version = 2

    size: str | SizeEntry
    recipe: Recipe


class RetrofitParams(_TrainBaseParams):
    """A model that is trained from the GPT called `source`."""

    stage = "retrofit_model"
    version = 2

    source: str
    recipe: RetrofittingRecipe


class FetchParams(StageParams):
    """A model of the hub, or a folder."""

    stage = "fetch_model"
    version = 3

    hub: str | None = None
    path: str | None = None
    trust_remote_code: bool = False
    files: Files = Field(default_factory=dict)


class ConvertParams(StageParams):
    """A checkpoint of another program."""

    stage = "convert_model"
    version = 1

    family: Family
    path: str
    package: str | None = None
    tokenizer: str | None = None
    chunk_length: PositiveInt | None = None
    vocab_size: PositiveInt | None = None
    files: Files = Field(default_factory=dict)


# cells --------------------------------------------------------------------------------------------------------------
class Prompting(Entry):
    """How a cell's questions become sequences, the same in training and in prediction."""

    family: Family
    template: Template
    layout: PassageLayout
    max_length: PositiveInt
    max_new_tokens: PositiveInt
    virtual_tokens: Count = 0
    may_lack_passages: bool = False
    """Whether a question may have fewer passages than the layout asks for: documents are short, gold finds what is."""


class BaseUse(Entry):
    """How a cell uses its base model."""

    precision: Literal["float32", "bfloat16"] = "float32"
    retrieval_gate: float | None = None
    trust_remote_code: bool = False


class FinetuneParams(StageParams):
    """What trains a cell; `method` comes without overrides of the recipe, which has them."""

    stage = "finetune_cell"
    version = 3

    prompting: Prompting
    base: BaseUse = BaseUse()
    method: MethodEntry
    recipe: Finetuning

    def recorded(self) -> dict[str, Any]:
        """All values, without the method's overrides of the recipe, which are none here."""
        values = super().recorded()
        values["method"].pop("finetuning", None)
        return values


class PredictParams(StageParams):
    """What answers a cell's test questions."""

    stage = "predict_cell"
    version = 5

    prompting: Prompting
    base: BaseUse = BaseUse()
    batch_size: PositiveInt


class ScoreParams(StageParams):
    """What scores a cell's answers."""

    stage = "score_cell"
    version = 7

    metrics: tuple[str, ...]
    """The headline first."""


# report -------------------------------------------------------------------------------------------------------------
class ModelLabels(Entry):
    """What tables say of a model beside its results."""

    family: Family
    size: str
    instruct: bool = False
    retrieval_gate: float | None = None
    replicate_of: str | None = None


class CellLabels(ModelLabels):
    """A cell and what tables say of it beside its results."""

    model: str
    method: str
    dataset: str
    retrieval: str
    seed: int
    kind: str
    trained: bool
    metric: str


class MethodLabels(Entry):
    """What tables and claims say of a method."""

    kind: str
    trained: bool


class CollectParams(StageParams):
    """The study's cells in order, their models and methods, and the datasets' headline metrics."""

    stage = "collect_metrics"
    version = 5

    study: str
    cells: tuple[tuple[str, str, str, str, int], ...]
    models: dict[str, ModelLabels]
    methods: dict[str, MethodLabels]
    datasets: dict[str, str]

    def labels(self) -> Iterator[CellLabels]:
        """Each cell with its labels."""
        for model, method, dataset, retrieval, seed in self.cells:
            yield CellLabels(
                model=model,
                method=method,
                dataset=dataset,
                retrieval=retrieval,
                seed=seed,
                metric=self.datasets[dataset],
                **dict(self.methods[method]),
                **dict(self.models[model]),
            )


class Beside(Entry):
    """A published number, and the names of the cells whose rows it stands beside."""

    number: PublishedNumber
    dataset: str
    models: tuple[str, ...]
    methods: tuple[str, ...]
    retrievals: tuple[str, ...]


class MakeTablesParams(StageParams):
    """The names of the tables, the fewest resamples of their tests, and published numbers."""

    stage = "make_tables"
    version = 3

    tables: tuple[str, ...]
    resamples: PositiveInt
    published: tuple[Beside, ...] = ()


class PlotScalingParams(StageParams):
    """Nothing but results."""

    stage = "plot_scaling"
    version = 2


class ClaimTestParams(StageParams):
    """Claims with their names, in order, and the kind of retriever of each retrieval that cells use."""

    stage = "test_claims"
    version = 1

    claims: tuple[tuple[str, Claim], ...]
    retrievals: dict[str, str]
    resamples: PositiveInt


class ReportRetrievalParams(StageParams):
    """(retrieval, dataset) of what was measured, in order."""

    stage = "report_retrieval"
    version = 2

    pairs: tuple[tuple[str, str], ...]


def _all(base: type[StageParams]) -> list[type[StageParams]]:
    return [found for child in base.__subclasses__() for found in (child, *_all(child))]


STAGES: Mapping[str, type[StageParams]] = {cls.stage: cls for cls in _all(StageParams) if "stage" in vars(cls)}
VERSIONS = {name: cls.version for name, cls in STAGES.items()}
"""The number of each stage's code, as results record them."""
