"""Pretraining of base models from scratch, with the passages that retrieval found for the training text.

Two ways to make sequences. Short documents (`neighbors_per: document`): a sequence is one document; its passages stand in
front of it as contexts, or go to the neighbor encoder, as the family's layout says. Long documents (`chunk`): documents
follow each other in sequences of whole chunks, and each chunk has neighbors of its own; a document begins on a chunk
border, so that the chunks are those that neighbors were retrieved for.

Shape letters: B batch, T tokens, L chunks, K neighbors, R retrieved length.
"""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal

import torch

from retrotune.config import CorpusEntry, Emphasis, Passages, PretrainingEntry, SizeEntry
from retrotune.corpus.documents import Document, read_corpus
from retrotune.errors import TrainingError
from retrotune.files import read_parquet, sha256, sha256_text, write_json
from retrotune.log import logger
from retrotune.training.batches import pad_neighbors, round_up
from retrotune.training.loop import Batch, PlannedBatches, Schedule, plan_batches, run_training
from retrotune.training.optimizers import adamw, muon
from retrotune.training.tokenizer import wrap_tokenizer

CONTEXT = "title: {title}, source: {text}"
LOG_LINES = 200
Neighbors = Mapping[tuple[str, int], Sequence[str]]
"""(document id, chunk number) -> texts of its passages, best first; chunk 0 stands for the whole document."""


@dataclass(frozen=True)
class Sequence_:
    """A training sequence without padding at its ends.

    `mask` is 0 on padding between documents. `answers` are positions where an answer begins. `neighbors` holds ranked
    token lists per chunk, or one set for all of them.
    """

    ids: list[int]
    mask: list[int]
    weights: list[float]
    neighbors: list[list[list[int]]] = field(default_factory=list)
    contexts: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
