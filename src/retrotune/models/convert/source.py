"""What every converter gives: a configuration, and for each of our tensors the way to read it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from retrotune.models.retro.configuration import RetroConfig


@dataclass(frozen=True)
class LazyTensor:
    """One tensor of our model, known by shape and type and read when it is written."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Source:
    """A checkpoint in our terms; nothing of it is in memory yet.

    `tensors`: by our parameter names (`model.layers.0.input_norm.weight`); what we have no name for keeps its own,
    which the writer refuses. `tokenizer`: file or folder of the tokenizer that comes with the checkpoint. `origin`:
    facts for the manifest (layout, files, what was dropped).
    """

    config: RetroConfig
    tensors: Mapping[str, LazyTensor]
    tokenizer: Path | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
