"""Encoded examples as tensors: padding that puts prompts and answers on chunk borders, and neighbors.

    [left padding][virtual tokens][contexts + question][answer][eos][right padding]

RETRO's left padding makes virtual tokens and prompt together fill whole chunks, so that the answer begins on a chunk
border and the last prompt token, which predicts the answer's first token, is the first that attends to the neighbors of
the last prompt chunk. GPT is the case of chunk length 1: no left padding. Virtual tokens are placeholders (pad id,
attended, never a label) that P-tuning replaces by trained vectors.

Shape letters: B batch, T tokens, K neighbors, R retrieved length.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from retrotune.prompting.examples import EncodedExample


def round_up(length: int, multiple: int) -> int:
    """Smallest multiple of `multiple` that is not below `length`."""
    return -(-length // multiple) * multiple


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
