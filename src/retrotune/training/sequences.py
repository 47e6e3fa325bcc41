"""Text for pretraining as sequences of tokens with loss weights and passages.

Two ways to make sequences. Short documents (`neighbors_per: document`): a sequence is one document; its passages stand
in front of it as contexts, or go to the neighbor encoder, as the family's layout says. Long documents (`chunk`):
documents follow each other in sequences of whole chunks, and each chunk has neighbors of its own; a document begins on
a chunk border, so that its chunks are those that neighbors were retrieved for.

Shape letters: B batch, T tokens, L chunks, C chunk length, K neighbors, R retrieved length.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch

from retrotune.config import Emphasis, Passages
from retrotune.corpus.records import squeeze
from retrotune.datasets.base import BASE, Passage
from retrotune.preparing.documents import Document
from retrotune.retrieval.pretraining import batches
from retrotune.training.batches import pad_neighbors, round_up, special_ids
from retrotune.training.planned import Batch

TOKENIZED_AT_ONCE = 1000
Neighbors = Mapping[tuple[str, int], Sequence[str]]
"""(document id, chunk number) -> passages as text, best first; chunk 0 stands for the whole document."""


def passage_texts(neighbors: Mapping[tuple[str, int], Sequence[Passage]]) -> dict[tuple[str, int], list[str]]:
    """Passages as base prompts show them, without the blank line after each."""

    def text(passage: Passage) -> str:
        return BASE.context.format(title=squeeze(passage.title), text=squeeze(passage.text)).strip()

    return {key: [text(passage) for passage in ranked] for key, ranked in neighbors.items()}


@dataclass(frozen=True)
class TokenSequence:
    """A training sequence, contexts apart, without padding at its ends.

    `mask` is 0 on padding between documents. `answers` are positions in `ids` where an answer begins. `neighbors` holds
    ranked token lists per chunk, or a single set for all chunks.
    """

    ids: list[int]
    mask: list[int]
    weights: list[float]
    context_ids: list[int] = field(default_factory=list)
    neighbors: list[list[list[int]]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens, contexts included."""
        return len(self.context_ids) + len(self.ids)


def digest(sequences: Iterable[TokenSequence]) -> str:
    """Hex digest of all that sequences hold: a training run is resumed only over the same ones."""
    found = hashlib.sha256()
    for sequence in sequences:
        found.update(repr(sequence).encode())
    return found.hexdigest()


def emphasis_weights(
    text: str, offsets: Sequence[tuple[int, int]], emphasis: Emphasis | None
) -> tuple[list[float], list[int]]:
    """(weight of each token, positions of tokens that begin an answer).

    An answer reaches from the end of the cue through the end of its line, the line break included, which teaches where
    answers stop. `offsets` are the tokens' first and last-plus-one characters in `text`.
    """
    if emphasis is None:
        return [1.0] * len(offsets), []
    weights, answers = [emphasis.other_weight] * len(offsets), []
    spans = [match.span("answer") for match in re.finditer(rf"{re.escape(emphasis.cue)}(?P<answer>[^\n]*\n?)", text)]
    position = 0
    for start, end in spans:
        while position < len(offsets) and offsets[position][1] <= start:
            position += 1
        if position < len(offsets) and offsets[position][0] < end:
            answers.append(position)
        while position < len(offsets) and offsets[position][0] < end:
            weights[position] = 1.0
            position += 1
    return weights, answers


@dataclass(frozen=True)
class SequenceMaker:
    """Turns documents and their passages into sequences for one model.

    `chunk_length` is the model's even for GPT in `chunk` mode, so that both families see the same sequences.
    """

    tokenizer: Any
    sequence_length: int
    chunk_length: int
    retrieved_length: int
    layout: Passages
    emphasis: Emphasis | None = None

    def documents(self, documents: Iterable[Document], neighbors: Neighbors) -> list[TokenSequence]:
        """One sequence per document, several for one that is longer than a sequence; eos ends the document.

        Contexts that do not fit are cut from the end of the last one.
        """
        made = []
        passage_ids = self._passages(neighbors)
        for document, ids, weights, answers in self._tokens(documents):
            passages = neighbors.get((document.doc_id, 0), ())
            contexts = [passage_ids[text] for text in passages[: self.layout.num_contexts]]
            start = 0 if self.layout.reuse_contexts else self.layout.num_contexts
            ranked = [passage_ids[text][0] for text in passages[start : start + self.layout.num_neighbors]]
            for first in range(0, len(ids), self.sequence_length):
                last = min(first + self.sequence_length, len(ids))
                room = self.sequence_length - (last - first)
                made.append(
                    TokenSequence(
                        ids[first:last],
                        [1] * (last - first),
                        weights[first:last],
                        context_ids=[token for body, gap in contexts for token in body + gap][:room],
                        neighbors=[[neighbor[: self.retrieved_length] for neighbor in ranked]],
                        answers=[position - first for position in answers if first <= position < last],
                    )
                )
        return made

    def chunks(self, documents: Iterable[Document], neighbors: Neighbors) -> list[TokenSequence]:
        """Sequences of `sequence_length` tokens (a multiple of the chunk length), filled with whole chunks.

        A document and its eos fill chunks of their own; what the last one lacks is masked padding without weight.
        """
        pad_id, _ = special_ids(self.tokenizer)
        passage_ids = self._passages(neighbors)
        wanted = self.sequence_length // self.chunk_length
        made: list[TokenSequence] = []
        current = TokenSequence([], [], [])
        for document, ids, weights, _ in self._tokens(documents):
            for number, first in enumerate(range(0, len(ids), self.chunk_length)):
                piece = ids[first : first + self.chunk_length]
                padding = self.chunk_length - len(piece)
                current.ids.extend(piece + [pad_id] * padding)
                current.mask.extend([1] * len(piece) + [0] * padding)
                current.weights.extend(weights[first : first + self.chunk_length] + [0.0] * padding)
                ranked = neighbors.get((document.doc_id, number), ())[: self.layout.num_neighbors]
                current.neighbors.append([passage_ids[text][0][: self.retrieved_length] for text in ranked])
                if len(current.neighbors) == wanted:
                    made.append(current)
                    current = TokenSequence([], [], [])
        return made + ([current] if current.ids else [])

    def _tokens(self, documents: Iterable[Document]) -> Iterator[tuple[Document, list[int], list[float], list[int]]]:
        """Document, its ids with eos, their weights, and where answers begin. Eos weighs as much as what it ends."""
        _, eos_id = special_ids(self.tokenizer)
        for block in batches(documents, TOKENIZED_AT_ONCE):
            encoded = self.tokenizer(
                [document.text for document in block], add_special_tokens=False, return_offsets_mapping=True
            )
            for document, ids, offsets in zip(block, encoded["input_ids"], encoded["offset_mapping"], strict=True):
                weights, answers = emphasis_weights(document.text, offsets, self.emphasis)
                yield document, [*ids, eos_id], [*weights, weights[-1] if weights else 1.0], answers

    def _passages(self, neighbors: Neighbors) -> dict[str, tuple[list[int], list[int]]]:
        """(ids of the text, ids of the blank line after it as a context) of each passage, tokenized once."""
        if not self.layout.needed:
            return {}
        gap: list[int] = self.tokenizer("\n\n", add_special_tokens=False)["input_ids"]
        texts = dict.fromkeys(text for ranked in neighbors.values() for text in ranked[: self.layout.needed])
        found = {}
        for block in batches(texts, TOKENIZED_AT_ONCE):
            for text, ids in zip(block, self.tokenizer(block, add_special_tokens=False)["input_ids"], strict=True):
                found[text] = (ids, gap)
        return found


@dataclass(frozen=True)
class SequenceCollator:
    """Pads sequences into a training batch with `loss_weights`; drops the passages of a share of them.

    With `chunk_length` above 1 a sequence with answers is padded on its left such that one of them, drawn at random,
    begins on a chunk border, as all answers do in fine-tuning; without answers the padding is drawn at random.
    Sequences that were cut into chunks already stay as they are.
    """

    pad_id: int
    chunk_length: int = 1
    num_neighbors: int = 0
    no_passage_share: float = 0.0
    context_weight: float = 0.0
    per_chunk: bool = False

    def __call__(self, sequences: Sequence[TokenSequence], rng: Random) -> Batch:
        """Ids, mask, labels and weights [B, T]; neighbor ids and mask [B, K, R], or [B, L, K, R] per chunk."""
        bare = [rng.random() < self.no_passage_share for _ in sequences]
        contexts = [[] if drop else sequence.context_ids for sequence, drop in zip(sequences, bare, strict=True)]
        paddings = [
            self._padding(sequence, len(context), rng) for sequence, context in zip(sequences, contexts, strict=True)
        ]
        ends = [
            padding + len(context) + len(sequence.ids)
            for sequence, context, padding in zip(sequences, contexts, paddings, strict=True)
        ]
        length = round_up(max(ends), self.chunk_length) if self.per_chunk else max(ends)
        ids_BT = torch.full((len(sequences), length), self.pad_id)
        mask_BT = torch.zeros_like(ids_BT)
        weights_BT = torch.zeros(ids_BT.shape)
        for row, (sequence, context, padding, end) in enumerate(zip(sequences, contexts, paddings, ends, strict=True)):
            ids_BT[row, padding:end] = torch.tensor(context + sequence.ids)
            mask_BT[row, padding:end] = torch.tensor([1] * len(context) + sequence.mask)
            weights_BT[row, padding:end] = torch.tensor([self.context_weight] * len(context) + sequence.weights)
        labels_BT = ids_BT.masked_fill((mask_BT == 0) | (weights_BT == 0), -100)
        batch = {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": labels_BT, "loss_weights": weights_BT}
        if self.num_neighbors:
            batch |= self._neighbors(sequences, bare, length)
        return batch

    def _padding(self, sequence: TokenSequence, num_context_tokens: int, rng: Random) -> int:
        if self.per_chunk or self.chunk_length == 1:
            return 0
        if not sequence.answers:
            return rng.randrange(self.chunk_length)
        return -(num_context_tokens + rng.choice(sequence.answers)) % self.chunk_length

    def _neighbors(self, sequences: Sequence[TokenSequence], bare: list[bool], length: int) -> Batch:
        kept = [[] if drop else sequence.neighbors for sequence, drop in zip(sequences, bare, strict=True)]
        if not self.per_chunk:
            ranked = [sets[0] if sets else [] for sets in kept]
            ids_BKR, mask_BKR = pad_neighbors(ranked, self.num_neighbors, self.pad_id)
            return {"neighbor_ids": ids_BKR, "neighbor_mask": mask_BKR}
        chunks = length // self.chunk_length
        flat = [sets[chunk] if chunk < len(sets) else [] for sets in kept for chunk in range(chunks)]
        ids, mask = pad_neighbors(flat, self.num_neighbors, self.pad_id)
        shape = (len(sequences), chunks, *ids.shape[1:])
        return {"neighbor_ids": ids.view(shape), "neighbor_mask": mask.view(shape)}
