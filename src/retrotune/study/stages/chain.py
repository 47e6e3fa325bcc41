"""What the stages before the cells use: raw files, passages, retrieval, base models."""

from typing import Any, ClassVar

from pydantic import Field

from retrotune.entries import Count, Family, PositiveInt
from retrotune.study.config import (
    CorpusEntry,
    IndexEntry,
    PassageLayout,
    Recipe,
    RetrieverEntry,
    RetrofittingRecipe,
    SizeEntry,
    World,
)
from retrotune.study.stages.base import Files, ReadsRaw, StageParams


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
