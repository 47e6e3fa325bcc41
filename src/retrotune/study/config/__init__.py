"""The configuration: one typed schema, unknown keys forbidden, every reference between entries checked.

A study is a set of named entries (datasets, corpora, retrievers, retrievals, models, methods) and a grid over their
names. Descriptions of the fields are the documentation: `config/schema.json` and the table in `config/README.md`
are generated from them (`make docs`).
"""

from retrotune.entries import Entry, Family
from retrotune.methods import Finetuning, MethodEntry
from retrotune.methods.adapter import AdapterMethod
from retrotune.methods.full import FullMethod
from retrotune.methods.lora import LoraMethod
from retrotune.methods.ptuning import PtuningMethod
from retrotune.methods.zeroshot import ZeroshotMethod
from retrotune.study.config.base import PAPER_SIZES, Reader
from retrotune.study.config.claim_files import read_claims
from retrotune.study.config.claims import NO_RETRIEVER, Claim
from retrotune.study.config.data import ChunkingEntry, CorpusEntry, DatasetEntry, World
from retrotune.study.config.indexes import IndexEntry
from retrotune.study.config.loading import load_config, read_config
from retrotune.study.config.models import (
    BaseTraining,
    Checkpoint,
    Emphasis,
    ModelEntry,
    ModelResources,
    PretrainingEntry,
    Recipe,
    Resources,
    RetrofittingEntry,
    RetrofittingRecipe,
    SizeEntry,
    TokenizerEntry,
)
from retrotune.study.config.problems import nearest
from retrotune.study.config.reading import check_files, check_settings, parse_yaml, read_yaml
from retrotune.study.config.retrievals import PassageLayout, RetrievalEntry
from retrotune.study.config.retrievers import RetrieverEntry
from retrotune.study.config.study import Config, Evaluation, Grid, RuleResources, SaveEvery, Select

__all__ = [
    "NO_RETRIEVER",
    "PAPER_SIZES",
    "AdapterMethod",
    "BaseTraining",
    "Checkpoint",
    "ChunkingEntry",
    "Claim",
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
    "PassageLayout",
    "PretrainingEntry",
    "PtuningMethod",
    "Reader",
    "Recipe",
    "Resources",
    "RetrievalEntry",
    "RetrieverEntry",
    "RetrofittingEntry",
    "RetrofittingRecipe",
    "RuleResources",
    "SaveEvery",
    "Select",
    "SizeEntry",
    "TokenizerEntry",
    "World",
    "ZeroshotMethod",
    "check_files",
    "check_settings",
    "load_config",
    "nearest",
    "parse_yaml",
    "read_claims",
    "read_config",
    "read_yaml",
]
