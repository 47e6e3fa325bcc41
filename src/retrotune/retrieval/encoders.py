"""Dense retrievers: a pair of BERT-like encoders that turn questions and passages into vectors.

Dragon+ (arXiv 2302.07452): two encoders, the vector of the first token, dot product, no normalization. MiniLM: one
encoder, mean of the token vectors, length 1. Both are the same class with other values in the configuration.

The models run in plain transformers rather than in sentence-transformers: pooling and normalization are declared in the
configuration, so that one code path serves folders with and without `modules.json`, and batching stays in our hands.

Shape letters: B batch, T tokens, D width.
"""

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from retrotune.config import RetrieverEntry
from retrotune.errors import RetrievalError
from retrotune.files import sha256
from retrotune.log import logger, progress
from retrotune.retrieval.passages import passage_text
from retrotune.stages import STAGE_VERSIONS

Side = Literal["query", "passage"]


def locate_model(name: str) -> str:
    """Folder of a model, or its name on the hub.

    `package:NAME/FOLDER` is a folder inside an installed Python package, found without running the package's code.
    Raises `RetrievalError` for a package or folder that is not there; what is no path is taken for a hub name.
    """
    if name.startswith("package:"):
        package, _, folder = name.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
        if spec is None:
            raise RetrievalError(f"retriever model {name!r}: Python package {package!r} is not installed; install it")
        for location in spec.submodule_search_locations or ():
            if (Path(location) / folder).is_dir():
                return str(Path(location) / folder)
        raise RetrievalError(f"retriever model {name!r}: the package has no folder {folder!r}")
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise RetrievalError(f"retriever model {name!r}: no such folder; put the model there or correct the path")
    return name


def model_name(entry: RetrieverEntry, which: Side) -> str:
    """The model that encodes questions (`query`) or passages (`passage`)."""
    name = entry.query_model if which == "query" or entry.passage_model is None else entry.passage_model
    if name is None:
        raise RetrievalError(f"a {entry.kind} retriever has no encoder; vectors need a dense retriever")
    return name


def fingerprint(entry: RetrieverEntry) -> str:
    """Digest of all that determines passage vectors: configuration, code version and the files of a local model."""
    name = model_name(entry, "passage")
    location = Path(locate_model(name))
    files = sorted(file for file in location.glob("*") if file.is_file()) if location.is_dir() else []
    parts = {
        "version": STAGE_VERSIONS["embed_passages"],
        "files": {file.name: sha256(file) for file in files} or name,
        **entry.model_dump(include={"pooling", "normalize", "max_length"}),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Encoder:
    """One encoder of a dense retriever; `dim` is the width D of its vectors."""

    def __init__(self, tokenizer: Any, model: Any, entry: RetrieverEntry) -> None:
        self.tokenizer = tokenizer
        self.model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu", torch.float32)
        self.entry = entry
        self.dim: int = model.config.hidden_size

    def passage_texts(self, titles: Sequence[str], texts: Sequence[str]) -> list[str]:
        """Passages as the encoder gets them: title, separator, text.

        The separator is the tokenizer's own between blanks for first-token encoders, which is how Dragon's authors give
        titles, and a blank for all others.
        """
        separator = f" {self.tokenizer.sep_token} " if self.entry.pooling == "cls" and self.tokenizer.sep_token else " "
        return [passage_text(title, text, separator) for title, text in zip(titles, texts, strict=True)]

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Any:
        """Vectors [n, D] of `texts` as float32, in their order. Texts beyond `max_length` tokens are cut.

        Batches hold texts of similar length, longest first, so that little is computed on padding and too large a batch
        fails at once.
        """
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        if not len(texts):
            return vectors
        tokens = self.tokenizer(list(texts), truncation=True, max_length=self.entry.max_length)
        order = sorted(range(len(texts)), key=lambda row: -len(tokens["input_ids"][row]))
        starts = range(0, len(order), self.entry.batch_size)
        for start in progress(starts, f"batches of {self.entry.batch_size} texts encoded"):
            rows = order[start : start + self.entry.batch_size]
            batch = self.tokenizer.pad(
                {key: [values[row] for row in rows] for key, values in tokens.items()}, return_tensors="pt"
            ).to(self.model.device)
            vectors[rows] = self._pool(self.model(**batch).last_hidden_state, batch["attention_mask"]).cpu().numpy()
        return vectors

    def _pool(self, hidden_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        if self.entry.pooling == "cls":
            vectors_BD = hidden_BTD[:, 0]
        else:
            weights_BT1 = mask_BT.unsqueeze(-1).to(hidden_BTD.dtype)
            vectors_BD = (hidden_BTD * weights_BT1).sum(1) / weights_BT1.sum(1)
        return torch.nn.functional.normalize(vectors_BD, dim=-1) if self.entry.normalize else vectors_BD


def load_encoder(entry: RetrieverEntry, which: Side) -> Encoder:
    """Load the encoder of questions or of passages from a folder, a Python package or the hub.

    Raises `RetrievalError` if there is no such model, it cannot be read, or `max_length` exceeds its positions.
    """
    from transformers import AutoModel, AutoTokenizer

    name = model_name(entry, which)
    location = locate_model(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(location)
        model = AutoModel.from_pretrained(location)
    except (OSError, ValueError) as error:
        raise RetrievalError(
            f"retriever model {name!r} cannot be loaded ({error}); without a connection to the hub, name a local folder"
        ) from error
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and entry.max_length > positions:
        raise RetrievalError(
            f"retriever max_length={entry.max_length}, but {name!r} has {positions} positions: lower it"
        )
    _warn_other_pooling(Path(location), entry)
    return Encoder(tokenizer, model, entry)


def _warn_other_pooling(folder: Path, entry: RetrieverEntry) -> None:
    """Warn if a sentence-transformers folder declares another pooling than the configuration."""
    declared = folder / "1_Pooling" / "config.json"
    if not declared.is_file():
        return
    modes = json.loads(declared.read_text(encoding="utf-8"))
    found = {"cls": modes.get("pooling_mode_cls_token"), "mean": modes.get("pooling_mode_mean_tokens")}
    if any(found.values()) and not found[entry.pooling]:
        other = next(pooling for pooling, used in found.items() if used)
        logger.warning("%s declares %s pooling, the retriever has pooling: %s", folder, other, entry.pooling)
