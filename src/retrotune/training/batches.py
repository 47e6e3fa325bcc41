"""How a cell's examples become batches: the one place that reads it off the cell, for training and prediction alike."""

from typing import Any

from retrotune.cells import ResolvedCell
from retrotune.datasets import get_spec
from retrotune.errors import ModelError
from retrotune.methods import num_virtual_tokens
from retrotune.models.loading import reads_neighbors
from retrotune.prompting.assemble import special_ids
from retrotune.prompting.examples import ExampleEncoder
from retrotune.prompting.padding import Collator


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
        template=spec.prompt_of(resolved.prompt_variant),
        passages=resolved.passages,
        max_length=min(resolved.max_length, getattr(config, "max_position_embeddings", None) or resolved.max_length),
        max_new_tokens=resolved.dataset_entry.max_new_tokens or spec.max_new_tokens,
        chunk_length=chunk_length,
        retrieved_length=config.retrieved_length if retro else 0,
        num_virtual_tokens=virtual,
        open_domain=spec.open_domain,
        may_lack_passages=resolved.may_lack_passages,
    )
    return encoder, Collator(pad_id, chunk_length, virtual, resolved.passages.num_neighbors)
