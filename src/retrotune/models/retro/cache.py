"""What generation keeps: keys and values, the running chunk, and the encoded neighbors of the last finished chunk."""

from collections.abc import Callable

import torch
from transformers import DynamicCache


class RetroCache(DynamicCache):
    """transformers' dynamic cache with RETRO's state beside it; reordering for beams reorders all of it.

    `last_keys` (per layer, for the key shift), `begun` (neighbor encodings before the chunk acts on them), `running`
    (the normed stream of the unfinished chunk), `memory` (per cross layer: keys, values and mask of the
    last finished chunk).
    """

    def __init__(self) -> None:
        super().__init__()
        self.last_keys: dict[int, torch.Tensor] = {}
        self.begun: torch.Tensor | None = None
        self.running: torch.Tensor | None = None
        self.memory: dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Follow the chosen beams."""
        super().reorder_cache(beam_idx)
        self._select(lambda state: state.index_select(0, beam_idx.to(state.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row, as beam search does after the prompt."""
        super().batch_repeat_interleave(repeats)
        self._select(lambda state: state.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some rows."""
        super().batch_select_indices(indices)
        self._select(lambda state: state[indices])

    def crop(self, max_length: int) -> None:
        """Refused: an earlier chunk's neighbors are not kept."""
        raise NotImplementedError("RetroCache cannot be cropped: it keeps the last chunk's neighbors only")

    def _select(self, pick: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.last_keys = {layer: pick(key) for layer, key in self.last_keys.items()}
        self.begun = None if self.begun is None else pick(self.begun)
        self.running = None if self.running is None else pick(self.running)
        self.memory = {layer: (pick(k), pick(v), pick(mask)) for layer, (k, v, mask) in self.memory.items()}
