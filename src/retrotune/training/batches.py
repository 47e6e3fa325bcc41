"""How a cell's examples become batches, for training and prediction alike."""

from typing import Any

from retrotune.errors import ModelError
from retrotune.models.loading import reads_neighbors, window_of
from retrotune.prompting.assemble import special_ids
from retrotune.prompting.examples import ExampleEncoder
from retrotune.prompting.padding import Collator
from retrotune.study.model_folders import check_window
from retrotune.study.stages import Prompting


def cell_batching(prompting: Prompting, model: str, config: Any, tokenizer: Any) -> tuple[ExampleEncoder, Collator]:
    """Encoder and collator of a cell; `config` is the configuration of its base model, called `model`.

    Raises `ModelError` if the base model is not of the cell's family, or its window is shorter than `max_length`.
    """
    retro = prompting.family == "retro"
    if retro != reads_neighbors(config):
        found = "no cross-attention layers" if retro else "cross-attention layers"
        raise ModelError(
            f"models.{model} is of family {prompting.family}, but its folder holds a {config.model_type} model with "
            f"{found}: correct models.{model}.family, or its source"
        )
    chunk_length = config.chunk_length if retro else 1
    check_window(window_of(config), prompting.max_length, f"models.{model}")
    encoder = ExampleEncoder(
        tokenizer=tokenizer,
        template=prompting.template,
        layout=prompting.layout,
        max_length=prompting.max_length,
        max_new_tokens=prompting.max_new_tokens,
        chunk_length=chunk_length,
        retrieved_length=config.retrieved_length if retro else 0,
        num_virtual_tokens=prompting.virtual_tokens,
        may_lack_passages=prompting.may_lack_passages,
    )
    pad_id, _ = special_ids(tokenizer)
    return encoder, Collator(pad_id, chunk_length, prompting.virtual_tokens, prompting.layout.num_neighbors)
