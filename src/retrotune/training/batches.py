"""Examples as tokens: what goes where in a sequence, for training and for prediction alike.

    [left padding][virtual tokens][contexts + question][answer][eos][right padding]

RETRO's left padding makes virtual tokens and prompt together fill whole chunks, so that the answer begins on a chunk
border and the last prompt token, which predicts the answer's first token, is the first that attends to the neighbors of
the last prompt chunk. GPT is the case of chunk length 1: no left padding. Virtual tokens are placeholders (pad id,
attended, never a label) that P-tuning replaces by trained vectors.

Pieces of the prompt (one per context, the question, the answer) are tokenized one by one and joined as tokens, so that
cutting contexts never changes the tokens of the question or the answer.

Shape letters: B batch, T tokens, K neighbors, R retrieved length.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from retrotune.cells import ResolvedCell
from retrotune.config import Passages
from retrotune.datasets import get_spec
from retrotune.datasets.base import DatasetSpec, Example, Passage
from retrotune.errors import DataError, ModelError, RetrievalError
from retrotune.log import logger
from retrotune.methods import num_virtual_tokens
from retrotune.models.loading import reads_neighbors


@dataclass(frozen=True)
class EncodedExample:
    """One question as token ids, without padding and virtual tokens.

    `answer_ids` end in eos, unless the answer was cut, and are empty for prediction; `neighbor_ids` holds at most
    `num_neighbors` lists of at most `retrieved_length` ids; `truncated` counts the context tokens that did not fit,
    `truncated_answer` those of the answer and its eos.
    """

    question_id: str
    prompt_ids: list[int]
    answer_ids: list[int]
    neighbor_ids: list[list[int]]
    truncated: int = 0
    truncated_answer: int = 0

    @property
    def length(self) -> int:
        """Tokens without padding."""
        return len(self.prompt_ids) + len(self.answer_ids)


def round_up(length: int, multiple: int) -> int:
    """Smallest multiple of `multiple` that is not below `length`."""
    return -(-length // multiple) * multiple


def special_ids(tokenizer: Any) -> tuple[int, int]:
    """(pad id, eos id) of a tokenizer; models without a pad token pad with eos, which the attention mask hides.

    Raises `ModelError` if there is no eos token: an answer could not end.
    """
    if tokenizer.eos_token_id is None:
        raise ModelError(f"tokenizer {tokenizer.name_or_path!r} has no eos token: set eos_token in its configuration")
    pad_id = tokenizer.pad_token_id
    return (tokenizer.eos_token_id if pad_id is None else pad_id), tokenizer.eos_token_id


def select_passages(
    passages: Sequence[Passage], layout: Passages, question_id: str, may_be_fewer: bool
) -> tuple[list[Passage], list[Passage]]:
    """(contexts, neighbors) of one question: neighbors come after the contexts, or start again from rank 1.

    Raises `RetrievalError` if the cache holds fewer passages than the layout needs, unless `may_be_fewer`: a question's
    own document can have fewer passages than that.
    """
    if len(passages) < layout.needed and not may_be_fewer:
        raise RetrievalError(
            f"num_contexts={layout.num_contexts}, num_neighbors={layout.num_neighbors} needs {layout.needed} neighbors"
            f" but the cache holds {len(passages)} for question {question_id!r}: rebuild with top_k>={layout.needed},"
            " or retrieve from a corpus with more passages"
        )
    start = 0 if layout.reuse_contexts else layout.num_contexts
    return list(passages[: layout.num_contexts]), list(passages[start : start + layout.num_neighbors])


@dataclass(frozen=True)
class ExampleEncoder:
    """Turns questions with their passages into token ids that fit a model's window.

    `max_length` counts everything: left padding, virtual tokens, prompt, answer and eos. `max_new_tokens` are kept free
    for the answer in training too, so that a question has the same prompt in training and in prediction; a longer
    answer is learned only as far as it could be generated.
    """

    tokenizer: Any
    spec: DatasetSpec
    variant: str
    passages: Passages
    max_length: int
    max_new_tokens: int
    chunk_length: int = 1
    retrieved_length: int = 128
    num_virtual_tokens: int = 0
    may_lack_passages: bool = False

    def encode(self, example: Example, passages: Sequence[Passage], with_answer: bool) -> EncodedExample:
        """Encode one question. Contexts that do not fit are cut, the last first and each from its end.

        Raises `DataError` if the question does not fit without any context, `RetrievalError` if passages are missing.
        """
        may_be_fewer = self.may_lack_passages or (example.doc_id is not None and not self.spec.open_domain)
        contexts, neighbors = select_passages(passages, self.passages, example.question_id, may_be_fewer)
        _, eos_id = special_ids(self.tokenizer)
        head_ids, question_ids, answer_ids, separator_ids, *piece_ids = self._tokenize(
            [
                self.spec.system_piece(self.variant),
                self.spec.question_piece(example, self.variant),
                self.spec.target(example) if with_answer else "",
                "\n\n",
                *(self.spec.context_piece(passage, self.variant) for passage in contexts),
                *(self.spec.context_piece(passage, self.variant).strip() for passage in neighbors),
            ]
        )
        head_ids = self._bos() + head_ids
        whole_answer_ids = [*answer_ids, eos_id] if with_answer else []
        answer_ids = whole_answer_ids[: self.max_new_tokens]
        room = self._room(example, len(head_ids) + len(question_ids))
        context_ids: list[int] = []
        truncated = 0
        for piece in piece_ids[: len(contexts)]:
            left = room - len(context_ids)
            if len(piece) <= left:
                context_ids += piece
                continue
            kept = piece[: left - len(separator_ids)] + separator_ids if left > len(separator_ids) else []
            truncated += len(piece) - len(kept)
            context_ids += kept
            room = len(context_ids)  # what comes after a cut context is dropped, not squeezed in
        return EncodedExample(
            question_id=example.question_id,
            prompt_ids=head_ids + context_ids + question_ids,
            answer_ids=answer_ids,
            neighbor_ids=[ids[: self.retrieved_length] for ids in piece_ids[len(contexts) :]],
            truncated=truncated,
            truncated_answer=len(whole_answer_ids) - len(answer_ids),
        )

    def encode_all(
        self, examples: Sequence[Example], passages: Mapping[str, Sequence[Passage]], with_answer: bool
    ) -> list[EncodedExample]:
        """Encode questions; `passages` maps question ids to ranked passages. Logs how many were cut."""
        encoded = [self.encode(example, passages.get(example.question_id, ()), with_answer) for example in examples]
        cut = sum(example.truncated > 0 for example in encoded)
        if cut:
            tokens = sum(example.truncated for example in encoded)
            logger.info(
                "contexts cut in %d of %d prompts, %d tokens, to fit %d", cut, len(encoded), tokens, self.max_length
            )
        long = sum(example.truncated_answer > 0 for example in encoded)
        if long:
            logger.info("%d of %d answers cut to max_new_tokens=%d", long, len(encoded), self.max_new_tokens)
        return encoded

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

    def _bos(self) -> list[int]:
        """The bos token, where the tokenizer's own convention begins texts with one."""
        begin = self.tokenizer("")["input_ids"][:1]
        return begin if begin and begin[0] == self.tokenizer.bos_token_id else []

    def _room(self, example: Example, question_length: int) -> int:
        """Tokens left for contexts."""
        window = max(self.max_length - self.max_new_tokens, 0) // self.chunk_length * self.chunk_length
        room = window - self.num_virtual_tokens - question_length
        if room < 0:
            virtual = f" + {self.num_virtual_tokens} virtual tokens" if self.num_virtual_tokens else ""
            chunks = f" in whole chunks of {self.chunk_length}" if self.chunk_length > 1 else ""
            raise DataError(
                f"question {example.question_id!r}: {question_length} tokens{virtual} do not fit into {window}{chunks},"
                f" the window of {self.max_length} less {self.max_new_tokens} for the answer; contexts are cut,"
                " questions never: raise max_length"
            )
        return room


@dataclass(frozen=True)
class Collator:
    """Pads encoded examples into tensors. `num_neighbors` 0 leaves the neighbor tensors out (GPT, hub models)."""

    pad_id: int
    chunk_length: int = 1
    num_virtual_tokens: int = 0
    num_neighbors: int = 0

    def __call__(self, examples: Sequence[EncodedExample]) -> dict[str, torch.Tensor]:
        """Training batch: `input_ids`, `attention_mask`, `labels` [B, T]; labels are the answer and eos, else -100.

        Each row has its own left padding, so that its answer begins on a chunk border; with neighbors also
        `neighbor_ids` and `neighbor_mask` [B, K, R], R being the batch's longest neighbor.
        """
        starts = [
            round_up(self.num_virtual_tokens + len(example.prompt_ids), self.chunk_length) for example in examples
        ]
        length = max(start + len(example.answer_ids) for start, example in zip(starts, examples, strict=True))
        return self._pad(examples, starts, length)

    def prompts(self, examples: Sequence[EncodedExample]) -> dict[str, torch.Tensor]:
        """Prediction batch: prompts only, all ending at the same border; no labels."""
        longest = max(self.num_virtual_tokens + len(example.prompt_ids) for example in examples)
        length = round_up(longest, self.chunk_length)
        batch = self._pad(examples, [length] * len(examples), length, with_answers=False)
        del batch["labels"]
        return batch

    def _pad(
        self, examples: Sequence[EncodedExample], starts: Sequence[int], length: int, with_answers: bool = True
    ) -> dict[str, torch.Tensor]:
        """Rows of `length` tokens whose prompts end where `starts` says their answers begin."""
        ids_BT = torch.full((len(examples), length), self.pad_id)
        mask_BT = torch.zeros_like(ids_BT)
        labels_BT = torch.full_like(ids_BT, -100)
        for row, (start, example) in enumerate(zip(starts, examples, strict=True)):
            answer_ids = example.answer_ids if with_answers else []
            end = start + len(answer_ids)
            first = start - len(example.prompt_ids)
            ids_BT[row, first:end] = torch.tensor([*example.prompt_ids, *answer_ids])
            mask_BT[row, first - self.num_virtual_tokens : end] = 1
            labels_BT[row, start:end] = ids_BT[row, start:end]
        batch = {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": labels_BT}
        if self.num_neighbors:
            neighbors = [example.neighbor_ids for example in examples]
            batch["neighbor_ids"], batch["neighbor_mask"] = pad_neighbors(neighbors, self.num_neighbors, self.pad_id)
        return batch


def pad_neighbors(
    neighbors: Sequence[Sequence[Sequence[int]]], num_neighbors: int, pad_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask) [B, K, R] of B lists of at most K token lists; missing neighbors are fully masked.

    R is the longest neighbor of the batch: the mask makes further padding meaningless.
    """
    length = max((len(ids) for row in neighbors for ids in row), default=0)
    ids_BKR = torch.full((len(neighbors), num_neighbors, max(length, 1)), pad_id)
    mask_BKR = torch.zeros_like(ids_BKR)
    for row, ranked in enumerate(neighbors):
        for rank, ids in enumerate(ranked):
            ids_BKR[row, rank, : len(ids)] = torch.tensor(ids)
            mask_BKR[row, rank, : len(ids)] = 1
    return ids_BKR, mask_BKR


def cell_batching(resolved: ResolvedCell, config: Any, tokenizer: Any) -> tuple[ExampleEncoder, Collator]:
    """Encoder and collator of a cell, the same for training and prediction. `config` is the base model's.

    Raises `ModelError` if the base model is not of the cell's family.
    """
    spec = get_spec(resolved.dataset_entry.reader)
    retro = resolved.family == "retro"
    if retro != reads_neighbors(config):
        found = "no cross-attention layers" if retro else "cross-attention layers"
        raise ModelError(
            f"models.{resolved.model} is of family {resolved.family}, but its folder holds a {config.model_type} model "
            f"with {found}: correct models.{resolved.model}.family, or its source"
        )
    chunk_length = config.chunk_length if retro else 1
    virtual = num_virtual_tokens(resolved.method_entry)
    pad_id, _ = special_ids(tokenizer)
    encoder = ExampleEncoder(
        tokenizer=tokenizer,
        spec=spec,
        variant=resolved.prompt_variant,
        passages=resolved.passages,
        max_length=min(resolved.max_length, getattr(config, "max_position_embeddings", None) or resolved.max_length),
        max_new_tokens=resolved.dataset_entry.max_new_tokens or spec.max_new_tokens,
        chunk_length=chunk_length,
        retrieved_length=config.retrieved_length if retro else 0,
        num_virtual_tokens=virtual,
        may_lack_passages=resolved.may_lack_passages,
    )
    return encoder, Collator(pad_id, chunk_length, virtual, resolved.passages.num_neighbors)
