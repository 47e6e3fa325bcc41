"""Tiny model folders for the tests of fetching, loading and planning."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from retrotune.training.tokenizer import wrap_tokenizer


def write_folder(folder: Path, model: PreTrainedModel, tensors: dict[str, torch.Tensor] | None = None) -> Path:
    """A model folder with exactly these tensors, by default the model's."""
    model.config.save_pretrained(folder)
    tensors = model.state_dict() if tensors is None else tensors
    stored = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def tokenizer_of(folder: Path, size: int, added: tuple[str, ...] = (), **special: Any) -> Path:
    """A byte-level tokenizer of `size` pieces in `folder`, with tokens added after them."""
    from tokenizers import Tokenizer, models

    pieces = {name: number for number, name in enumerate(["<pad>", "<eos>", *(f"p{n}" for n in range(size - 2))])}
    folder.mkdir(parents=True, exist_ok=True)
    Tokenizer(models.WordLevel(pieces, unk_token="<pad>")).save(str(folder / "plain.json"))
    tokenizer = wrap_tokenizer(folder / "plain.json")
    tokenizer.add_tokens(list(added))
    tokenizer.add_special_tokens(special)
    tokenizer.save_pretrained(folder)
    return folder


def relink(file: Path, to: str = "nowhere") -> None:
    """Make a file a link to nothing."""
    file.unlink()
    file.symlink_to(file.parent / to)
