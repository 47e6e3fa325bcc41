"""The configuration: one typed schema, unknown keys forbidden, every reference between entries checked.

A study is a set of named entries (datasets, corpora, retrievers, retrievals, models, methods) and a grid over their
names. Descriptions of the fields are the documentation: `config/schema.json` and the table in `config/README.md`
are generated from them (`make docs`).
"""

from retrotune.config.base import OPEN_DOMAIN, PAPER_SIZES, WITHOUT_GOLD, Reader
from retrotune.config.indexes import IndexEntry
from retrotune.config.loading import load_config, nearest, read_config
from retrotune.config.methods import (
    AdapterMethod,
    Finetuning,
    FullMethod,
    LoraMethod,
    MethodEntry,
    PtuningMethod,
    ZeroshotMethod,
)
from retrotune.config.models import (
    BaseTraining,
    Checkpoint,
    Emphasis,
    ModelEntry,
    ModelResources,
    PretrainingEntry,
    Resources,
    RetrofittingEntry,
    SizeEntry,
    TokenizerEntry,
)
from retrotune.config.reading import check_files, parse_yaml, read_yaml
from retrotune.config.retrieval import (
    ChunkingEntry,
    CorpusEntry,
    DatasetEntry,
    Passages,
    RetrievalEntry,
    World,
)
from retrotune.config.retrievers import RetrieverEntry
from retrotune.config.study import Config, Evaluation, Grid, RuleResources, SaveEvery, Select
from retrotune.entries import Entry, Family

__all__ = [
    "OPEN_DOMAIN",
    "PAPER_SIZES",
    "WITHOUT_GOLD",
    "AdapterMethod",
    "BaseTraining",
    "Checkpoint",
    "ChunkingEntry",
    "Config",
    "CorpusEntry",
    "DatasetEntry",
    "Emphasis",
    "Entry",
    "Evaluation",
    "Family",
    "Finetuning",
    "FullMethod",
    "Grid",
    "IndexEntry",
    "LoraMethod",
    "MethodEntry",
    "ModelEntry",
    "ModelResources",
    "Passages",
    "PretrainingEntry",
    "PtuningMethod",
    "Reader",
    "Resources",
    "RetrievalEntry",
    "RetrieverEntry",
    "RetrofittingEntry",
    "RuleResources",
    "SaveEvery",
    "Select",
    "SizeEntry",
    "TokenizerEntry",
    "World",
    "ZeroshotMethod",
    "check_files",
    "load_config",
    "nearest",
    "parse_yaml",
    "read_config",
    "read_yaml",
]
