"""Dense retrievers: a pair of BERT-like encoders that turn questions and passages into vectors.

Dragon+ (arXiv 2302.07452): two encoders, the vector of the first token, dot product, no normalization. MiniLM: one
encoder, mean of the token vectors, length 1. All are the same class with other values in the configuration, which
presets and the model's own folder complete.

The models run in plain transformers rather than in sentence-transformers, so that one code path serves folders with and
without `modules.json`, and batching stays in our hands.

Shape letters: B batch, T tokens, D width.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from retrotune.errors import RetrievalError
from retrotune.retrieval.passages import passage_text
from retrotune.retrieval.vectors.declared import FALLBACK, Side, complete, read_declared, refuse_other
from retrotune.retrieval.vectors.linear import prepare
from retrotune.retrieval.vectors.pretrained import load_pretrained, longest_text, lower_cased, model_folder
from retrotune.retrieval.vectors.tokens import Text, TextTokens
from retrotune.runtime.devices import torch_device
from retrotune.runtime.files import sha256
from retrotune.runtime.log import logger, progress
from retrotune.study.config import RetrieverEntry
from retrotune.study.places import locate_model
from retrotune.study.stages import EmbedParams


def model_name(entry: RetrieverEntry, which: Side) -> str:
    """The model that encodes questions (`query`) or passages (`passage`)."""
    name = entry.query_model if which == "query" or entry.passage_model is None else entry.passage_model
    if name is None:
        raise RetrievalError(f"a {entry.kind} retriever has no encoder; vectors need a dense retriever")
    return name


def fingerprint(entry: RetrieverEntry, which: Side = "passage") -> str:
    """Digest of all that determines vectors of passages, or of questions.

    Configuration (completed by what the folder declares), code version, and the files of a local model.
    """
    name = model_name(entry, which)
    location = locate_model(name)
    files = sorted(file for file in Path(location).glob("*") if file.is_file()) if Path(location).is_dir() else []
    keys = {
        "pooling",
        "normalize",
        "max_length",
        "precision",
        f"{which}_prefix",
        *(["title_separator"] * (which == "passage")),
    }
    parts = {
        "version": EmbedParams.version,
        "files": {file.name: sha256(file) for file in files} or name,
        **complete(entry, location).model_dump(include=keys),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


PROBES = ("Paris", "Where was the river measured?", "A house was built by the sea, and nobody knew who had built it.")
"""Texts that show whether another precision keeps an encoder's vectors."""
BATCH_TOKENS = {True: 2048, False: 65_536}
"""Tokens of a batch if the configuration leaves it open: on a CPU what its caches hold, and on a GPU."""


class Encoder:
    """One encoder of a dense retriever; `dim` is the width D of its vectors, `prefix` stands before each text.

    `entry` is completed by what the model's folder declares. It runs on `device`; None: the first GPU, else the CPU.
    """

    def __init__(
        self, tokenizer: Any, model: Any, entry: RetrieverEntry, prefix: str = "", device: str | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.entry = entry
        self.prefix = prefix
        self._tokens = TextTokens(tokenizer, entry.max_length or 0, prefix)
        self.dim: int = model.config.hidden_size
        self.device = device or (torch_device())
        with torch.inference_mode():
            probes = self._tokens(PROBES)
            self.model = prepare(
                model.eval().to(self.device, torch.float32),
                entry.precision,
                lambda candidate: self._vectors(candidate, probes),
            )

    def passage_texts(self, titles: Sequence[str], texts: Sequence[str]) -> list[Text]:
        """Passages as the encoder gets them after its prefix: title, blank, text.

        With the tokenizer's separator, as Dragon's authors give titles, title and text stay apart: a separator that a
        text spells is none.
        """
        apart = self.entry.title_separator == "sep_token"
        return [
            (title, text) if title and apart else passage_text(title, text)
            for title, text in zip(titles, texts, strict=True)
        ]

    def encode(self, texts: Sequence[Text]) -> Any:
        """Vectors [n, D] of `texts` as float32, in their order. Texts beyond `max_length` tokens are cut.

        Batches hold texts of similar length, longest first, so that little is computed on padding and too large a batch
        fails at once; each has at most `batch_tokens` tokens with its padding, or one text.
        """
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        tokens = self._tokens(texts)
        budget = self.entry.batch_tokens or BATCH_TOKENS[torch.device(self.device).type == "cpu"]
        batches = token_batches([len(ids) for ids in tokens], budget)

        @torch.inference_mode()
        def embed(rows: Any) -> int:
            vectors[rows] = self._vectors(self.model, [tokens[row] for row in rows]).cpu().numpy()
            return len(rows)

        for _ in progress(self._run(embed, batches), "texts encoded", total=len(texts), size=int):
            pass
        return vectors

    def _run(self, embed: Callable[[Any], int], batches: Sequence[Any]) -> Iterator[int]:
        """What `embed` gives for each batch: on the CPU one thread per batch, so many batches at a time.

        Threads that share a batch wait for each other in every layer: half the time, where other processes run too.
        """
        threads = torch.get_num_threads()
        workers = min(threads, len(batches)) if torch.device(self.device).type == "cpu" else 1
        if workers <= 1:
            yield from map(embed, batches)
            return
        try:
            with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield from pool.map(embed, batches)
        finally:
            torch.set_num_threads(threads)  # MKL's number is the process's

    def _vectors(self, model: Any, tokens: Sequence[Any]) -> torch.Tensor:
        """Vectors [B, D] of one batch, as float32 on the model's device."""
        lengths_B = np.array([len(ids) for ids in tokens])
        mask_BT = np.arange(lengths_B.max()) < lengths_B[:, None]
        ids_BT = np.full(mask_BT.shape, self.tokenizer.pad_token_id or 0, dtype=np.int64)
        ids_BT[mask_BT] = np.concatenate(tokens)
        input_ids = torch.from_numpy(ids_BT).to(self.device)
        attention_mask = torch.from_numpy(mask_BT.astype(np.int64)).to(self.device)
        hidden_BTD = model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self._pool(hidden_BTD, attention_mask)

    def _pool(self, hidden_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        if self.entry.pooling == "cls":
            vectors_BD = hidden_BTD[:, 0].float()
        else:
            weights_BT1 = mask_BT.unsqueeze(-1).float()
            vectors_BD = (hidden_BTD.float() * weights_BT1).sum(1) / weights_BT1.sum(1)
        return torch.nn.functional.normalize(vectors_BD, dim=-1) if self.entry.normalize else vectors_BD


def token_batches(lengths: Sequence[int], batch_tokens: int) -> list[Any]:
    """Rows of texts, longest first, in batches of at most `batch_tokens` with padding, or of one text."""
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    batches, start = list[Any](), 0
    while start < len(order):
        count = max(1, batch_tokens // max(1, lengths[order[start]]))
        batches.append(order[start : start + count])
        start += count
    return batches


def load_encoder(entry: RetrieverEntry, which: Side, device: str | None = None) -> Encoder:
    """Load the encoder of questions or of passages from a folder, a Python package or the hub; `device` as `Encoder`'s.

    Keys that the configuration leaves open are the folder's. Raises `RetrievalError` if there is no such model, it
    cannot be read, is not whole, brings code that is not trusted, declares what is not followed here, or the
    configuration's `max_length` exceeds what it takes; a longer one of the folder is cut.
    """
    name = model_name(entry, which)
    location = locate_model(name)
    completed = complete(entry, location)
    folder = model_folder(name, location)
    if not Path(location).is_dir():
        refuse_other(completed, complete(entry, folder))
    tokenizer, model = load_pretrained(name, location, entry.trust_remote_code)
    if read_declared(folder, given=FALLBACK).lower_case:
        lower_cased(name, tokenizer)
    longest = longest_text(model)
    if longest is not None and (completed.max_length or 0) > longest:
        if entry.max_length is not None:
            raise RetrievalError(
                f"retriever max_length={entry.max_length}, but {name!r} takes {longest} tokens at most: lower it"
            )
        logger.warning("%s takes %d tokens at most, not %d: longer texts are cut", name, longest, completed.max_length)
        completed = completed.model_copy(update={"max_length": longest})
    prefix = completed.query_prefix if which == "query" else completed.passage_prefix
    return Encoder(tokenizer, model, completed, prefix or "", device)
