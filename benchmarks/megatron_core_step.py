"""Seconds of one training step of megatron-core's RETRO on a CPU; run by retro.py in an environment of its own.

megatron-core 0.15.3 asks for a GPU in three places that need none in float32 without dropout and without model
parallelism: the version of Transformer Engine, the device of rotary frequencies, and a random state for dropout. Each
is answered here; no arithmetic is changed.
"""

import contextlib
import json
import sys
import tempfile
import time

import megatron.core.models.retro.config as retro_config
import torch
from megatron.core import parallel_state
from megatron.core.models.retro import RetroConfig, RetroModel, get_retro_decoder_block_spec
from megatron.core.tensor_parallel.random import CudaRNGStatesTracker

retro_config.is_te_min_version = lambda *args, **kwargs: False
torch.cuda.current_device = lambda: "cpu"
CudaRNGStatesTracker.fork = lambda self, name=None: contextlib.nullcontext()


def main() -> None:
    """Print a JSON line: parameters and the seconds of the fastest of three steps."""
    shape = json.loads(sys.argv[1])
    torch.set_num_threads(shape["threads"])
    with tempfile.NamedTemporaryFile() as store:
        torch.distributed.init_process_group("gloo", init_method=f"file://{store.name}", rank=0, world_size=1)
        parallel_state.initialize_model_parallel(1, 1)
    config = RetroConfig(
        num_layers=shape["layers"],
        hidden_size=shape["hidden"],
        num_attention_heads=shape["heads"],
        ffn_hidden_size=shape["ffn"],
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        normalization="LayerNorm",
        hidden_dropout=0.0,
        attention_dropout=0.0,
        use_cpu_initialization=True,
        retro_encoder_num_layers=2,
        retro_encoder_hidden_dropout=0.0,
        retro_encoder_attention_dropout=0.0,
        retro_num_neighbors=shape["neighbors"],
        retro_chunk_length=shape["chunk"],
        retro_num_retrieved_chunks=shape["retrieved"] // shape["chunk"],
        retro_neighbor_dirs={},
        retro_split_preprocessing="98,2,0",
    )
    model = RetroModel(
        config=config,
        transformer_layer_spec=get_retro_decoder_block_spec(config, use_transformer_engine=False),
        vocab_size=shape["vocabulary"],
        max_sequence_length=4096,
        position_embedding_type="rope",
        rotary_percent=0.5,
        share_embeddings_and_output_weights=False,
    ).train()
    batch, length, retrieved = shape["batch"], shape["length"], shape["retrieved"]
    sets = batch * (length // shape["chunk"]) * shape["neighbors"]
    ids_BT = torch.randint(2, shape["vocabulary"], (batch, length))
    given = {
        "input_ids": ids_BT,
        "position_ids": torch.arange(length)[None].expand(batch, -1),
        "attention_mask": torch.ones(1, 1, length, length).tril() < 0.5,  # True: hidden
        "context_input_ids": torch.randint(2, shape["vocabulary"], (sets, retrieved)),
        "context_position_ids": torch.arange(retrieved)[None].expand(sets, -1),
        "context_mask": None,
        "labels": ids_BT,
    }
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        model.zero_grad()
        model(**given).mean().backward()
        seconds.append(time.perf_counter() - start)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(json.dumps({"parameters": parameters, "seconds": min(seconds)}))


if __name__ == "__main__":
    main()
