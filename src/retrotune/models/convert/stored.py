"""Tensors that lie in files, described by where their bytes are: reading some rows costs the bytes of those rows.

A matrix may lie in pieces, as tensor-parallel ranks or distributed checkpoints leave it; a piece is placed by where it
starts in the whole. Merging is thereby never a step of its own.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from retrotune.errors import ModelError

Ranges = Sequence[tuple[int, int]]
"""Half-open ranges of rows, in the order in which they are wanted."""


@dataclass(frozen=True)
class Block:
    """A contiguous tensor in a file, from byte `offset` on."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of one entry of the first axis."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> "Block":
        """Rows `start` to `stop`."""
        return Block(self.path, self.offset + start * self.row_bytes, (stop - start, *self.shape[1:]), self.dtype)

    def entry(self, number: int) -> "Block":
        """One entry of the first axis, without that axis."""
        return Block(self.path, self.offset + number * self.row_bytes, self.shape[1:], self.dtype)

    def read_into(self, target: torch.Tensor) -> None:
        """Fill `target`, of this shape and type. Plain reads, not a memory map, whose pages count as memory.

        Raises `ModelError` if the file ends before.
        """
        whole = target if target.is_contiguous() else torch.empty(self.shape, dtype=self.dtype)
        with open(self.path, "rb") as stream:
            stream.seek(self.offset)
            count = stream.readinto(whole.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
        if count != whole.nbytes:
            raise ModelError(f"{self.path}: truncated: {count} of {whole.nbytes} bytes at byte {self.offset}")
        if whole is not target:
            target.copy_(whole)


@dataclass(frozen=True)
class Piece:
    """A part of a tensor: where it starts in the whole, its shape, and how to find its bytes."""

    start: tuple[int, ...]
    shape: tuple[int, ...]
    locate: Callable[[], Block]


@dataclass(frozen=True)
class Stored:
    """A tensor of a checkpoint, in pieces that cover it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: tuple[Piece, ...]

    @staticmethod
    def whole(block: Block) -> "Stored":
        """A tensor in one piece."""
        piece = Piece((0,) * len(block.shape), block.shape, lambda: block)
        return Stored(block.shape, block.dtype, (piece,))

    def is_covered(self) -> bool:
        """Whether each element is in exactly one piece."""
        inside = all(
            start >= 0 and start + size <= whole
            for piece in self.pieces
            for start, size, whole in zip(piece.start, piece.shape, self.shape, strict=True)
        )
        overlap = any(_meet(one, other) for one, other in itertools.combinations(self.pieces, 2))
        return inside and not overlap and sum(math.prod(piece.shape) for piece in self.pieces) == math.prod(self.shape)

    def entry(self, number: int) -> "Stored":
        """One entry of the first axis, without that axis: a layer of stacked layers."""
        pieces = tuple(
            Piece(piece.start[1:], piece.shape[1:], lambda p=piece: p.locate().entry(number - p.start[0]))  # type: ignore[misc]
            for piece in self.pieces
            if piece.start[0] <= number < piece.start[0] + piece.shape[0]
        )
        return Stored(self.shape[1:], self.dtype, pieces)

    def read(self, ranges: Ranges) -> torch.Tensor:
        """The rows of `ranges`, one range after the other."""
        out = torch.empty(sum(stop - start for start, stop in ranges), *self.shape[1:], dtype=self.dtype)
        filled = 0
        for start, stop in ranges:
            for piece in self.pieces:
                first = piece.start[0]
                low, high = max(start, first), min(stop, first + piece.shape[0])
                if low < high:
                    target = out[filled + low - start : filled + high - start]
                    for axis in range(1, out.dim()):
                        target = target.narrow(axis, piece.start[axis], piece.shape[axis])
                    piece.locate().rows(low - first, high - first).read_into(target)
            filled += stop - start
        return out


def _meet(one: Piece, other: Piece) -> bool:
    """Whether two pieces share an element."""
    return all(
        max(a, b) < min(a + m, b + n) for a, m, b, n in zip(one.start, one.shape, other.start, other.shape, strict=True)
    )
