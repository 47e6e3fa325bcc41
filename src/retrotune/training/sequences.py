"""Text for pretraining as sequences of tokens with loss weights and passages.

Two ways to make sequences. Short documents (`neighbors_per: document`): a sequence is one document; its passages stand
in front of it as contexts, or go to the neighbor encoder, as the family's layout says. Long documents (`chunk`):
documents follow each other in sequences of whole chunks, and each chunk has neighbors of its own; a document begins on
a chunk border, so that its chunks are those that neighbors were retrieved for.

Shape letters: B batch, T tokens, L chunks, C chunk length, K neighbors, R retrieved length.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import torch

from retrotune.data.corpora.records import Document
from retrotune.data.corpora.tokens import Encoded
from retrotune.data.datasets.base import BASE, Passage
from retrotune.prompting.assemble import Assembler, special_ids
from retrotune.prompting.padding import pad_neighbors, round_up
from retrotune.retrieval.caches.texts import batches
from retrotune.study.config import Emphasis, PassageLayout
from retrotune.training.planned import Batch

TOKENIZED_AT_ONCE = 1000
GAP = "\n\n"
"""What stands after each context."""
Neighbors = Mapping[tuple[str, int], Sequence[str]]
"""(document id, chunk number) -> passages as text, best first; chunk 0 stands for the whole document."""


def passage_texts(neighbors: Mapping[tuple[str, int], Sequence[Passage]]) -> dict[tuple[str, int], list[str]]:
    """Passages as base prompts show them, without the blank line after each."""
    return {key: [BASE.neighbor(passage) for passage in ranked] for key, ranked in neighbors.items()}


@dataclass(frozen=True)
class TokenSequence:
    """A training sequence, contexts apart, without padding at its ends.

    `mask` is 0 on padding between documents. `answers` are positions in `ids` where an answer begins. `neighbors` holds
    ranked token lists per chunk, or a single set for all chunks. `bare` is the same text as it is without its contexts
    (None: the same tokens), which differs where a tokenizer puts a blank before each text.
    """

    ids: list[int]
    mask: list[int]
    weights: list[float]
    context_ids: list[int] = field(default_factory=list)
    neighbors: list[list[list[int]]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    bare: "TokenSequence | None" = field(default=None, repr=False)  # follows from the same text: no part of the digest

    @property
    def length(self) -> int:
        """Tokens, contexts included."""
        return len(self.context_ids) + len(self.ids)

    def part(self, first: int, length: int) -> "TokenSequence":
        """At most `length` of its tokens from `first` on, without contexts and neighbors."""
        chosen = slice(first, first + length)
        answers = [position - first for position in self.answers if first <= position < first + length]
        return TokenSequence(self.ids[chosen], self.mask[chosen], self.weights[chosen], answers=answers)


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
    layout: PassageLayout
    emphasis: Emphasis | None = None

    def documents(self, documents: Iterable[Document], neighbors: Neighbors) -> list[TokenSequence]:
        """One sequence per document, several for one that is longer than a sequence; eos ends the document.

        Contexts that do not fit are cut from the end of the last one.
        """
        made = []
        passages = self._passages(neighbors)

        def ranked(document: Document) -> Sequence[str]:
            return neighbors.get((document.doc_id, 0), ())

        def contexts(document: Document) -> list[int]:
            texts = ranked(document)[: self.layout.num_contexts]
            return [token for place, text in enumerate(texts) for token in passages[text].context(first=place == 0)]

        for document, begun, following in self._tokens(documents, lambda document: bool(contexts(document))):
            start = 0 if self.layout.reuse_contexts else self.layout.num_contexts
            texts = ranked(document)[start : start + self.layout.num_neighbors]
            fits = len(following.ids) < self.sequence_length  # else there is no room for a context before its beginning
            whole = following if fits else begun
            for first in range(0, len(whole.ids), self.sequence_length):
                part = whole.part(first, self.sequence_length)
                differs = fits and begun.ids != following.ids
                made.append(
                    replace(
                        part,
                        context_ids=contexts(document)[: self.sequence_length - len(part.ids)],
                        neighbors=[[passages[text].ids[: self.retrieved_length] for text in texts]],
                        bare=begun.part(0, self.sequence_length) if differs else None,
                    )
                )
        return made

    def chunks(self, documents: Iterable[Document], neighbors: Neighbors) -> list[TokenSequence]:
        """Sequences of `sequence_length` tokens (a multiple of the chunk length), filled with whole chunks.

        A document and its eos fill chunks of their own; what the last one lacks is masked padding without weight.
        """
        pad_id, _ = special_ids(self.tokenizer)
        passages = self._passages(neighbors)
        wanted = self.sequence_length // self.chunk_length
        made: list[TokenSequence] = []
        current = TokenSequence([], [], [])
        for document, whole, _ in self._tokens(documents):
            for number, first in enumerate(range(0, len(whole.ids), self.chunk_length)):
                piece = whole.part(first, self.chunk_length)
                padding = self.chunk_length - len(piece.ids)
                current.ids.extend(piece.ids + [pad_id] * padding)
                current.mask.extend(piece.mask + [0] * padding)
                current.weights.extend(piece.weights + [0.0] * padding)
                ranked = neighbors.get((document.doc_id, number), ())[: self.layout.num_neighbors]
                current.neighbors.append([passages[text].ids[: self.retrieved_length] for text in ranked])
                if len(current.neighbors) == wanted:
                    made.append(current)
                    current = TokenSequence([], [], [])
        return made + ([current] if current.ids else [])

    def _tokens(
        self, documents: Iterable[Document], has_contexts: Callable[[Document], bool] = lambda document: False
    ) -> Iterator[tuple[Document, TokenSequence, TokenSequence]]:
        """Document, its tokens with eos as the beginning of a text, and as what follows its contexts if it has any."""
        assembler = Assembler(self.tokenizer)
        for block in batches(documents, TOKENIZED_AT_ONCE):
            begun = assembler.begin([document.text for document in block])
            following = dict(enumerate(begun))
            places = [place for place, document in enumerate(block) if has_contexts(document)]
            after = assembler.go_on([block[place].text for place in places], GAP) if not assembler.keeps_ends else ()
            following.update(zip(places, after, strict=False))
            for place, (document, encoded) in enumerate(zip(block, begun, strict=True)):
                first = self._weighed(document.text, encoded)
                other = first if following[place] is encoded else self._weighed(document.text, following[place])
                yield document, first, other

    def _weighed(self, text: str, encoded: Encoded) -> TokenSequence:
        """A text's tokens with eos, which weighs as much as what it ends, and where answers begin."""
        _, eos_id = special_ids(self.tokenizer)
        weights, answers = emphasis_weights(text, encoded.offsets, self.emphasis)
        ids = [*encoded.ids, eos_id]
        return TokenSequence(ids, [1] * len(ids), [*weights, weights[-1] if weights else 1.0], answers=answers)

    def _passages(self, neighbors: Neighbors) -> dict[str, "_Passage"]:
        """Each passage, tokenized once."""
        if not self.layout.needed:
            return {}
        assembler = Assembler(self.tokenizer)
        (gap,) = assembler.go_on([GAP])
        texts = dict.fromkeys(text for ranked in neighbors.values() for text in ranked[: self.layout.needed])
        found = {}
        for block in batches(texts, TOKENIZED_AT_ONCE):
            begun = assembler.begin(block)
            needed = self.layout.num_contexts > 1 and not assembler.keeps_ends
            following = assembler.go_on(block, GAP) if needed else begun
            for text, first, other in zip(block, begun, following, strict=True):
                found[text] = _Passage(first.ids, other.ids, gap.ids)
        return found


@dataclass(frozen=True)
class _Passage:
    """A passage's ids as a text of its own, as what follows another one, and those of the blank line after it."""

    ids: list[int]
    following_ids: list[int]
    gap_ids: list[int]

    def context(self, first: bool) -> list[int]:
        """Its ids as the first context, or as a later one."""
        return (self.ids if first else self.following_ids) + self.gap_ids


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
        sequences = [
            (sequence.bare or sequence) if drop else sequence for sequence, drop in zip(sequences, bare, strict=True)
        ]
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
