"""Memory of conversions: generated Megatron checkpoints of several GB, each converted in a process of its own.

A RETRO of 18 layers in two tensor-parallel shards shows the peak against the size; one layer of the 48B model in eight
shards, with all of its embeddings, shows what the largest tensors need: more layers of it add files, not memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from retrotune.models.convert.writing import expected_shapes
from retrotune.models.retro.configuration import default_cross_attention_layers
from retrotune.models.sizes import VOCAB_SIZE, ffn_size, model_config


class Shape(NamedTuple):
    """A generated model."""

    ranks: int
    layers: int
    width: int
    heads: int
    vocab_size: int
    retro: bool


SHAPES = {
    "retro": Shape(ranks=2, layers=18, width=2048, heads=16, vocab_size=128_000, retro=True),
    "layer_of_48b": Shape(ranks=8, layers=1, width=8192, heads=64, vocab_size=VOCAB_SIZE, retro=False),
}
LIMIT = 12_000_000_000
"""Bytes that converting the 48B model may take."""


def shapes(model: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Legacy Megatron's names in `encoder` and their shapes on one rank."""
    width, ranks, ffn = model.width, model.ranks, ffn_size(model.width)
    crossing = default_cross_attention_layers(model.layers) if model.retro else []
    blocks = [(f"layers.{layer}", layer in crossing) for layer in range(model.layers)]
    if model.retro:
        blocks += [(f"layers.{crossing[0]}.retriever.layers.{layer}", layer == 0) for layer in range(2)]
    for block, cross in blocks:
        for norm in ("input_norm", "post_attention_norm", *(["post_inter_attention_norm"] if cross else [])):
            yield f"{block}.{norm}.weight", (width,)
            yield f"{block}.{norm}.bias", (width,)
        yield f"{block}.self_attention.query_key_value.weight", (3 * width // ranks, width)
        yield f"{block}.self_attention.dense.weight", (width, width // ranks)
        if cross:
            yield f"{block}.inter_attention.query.weight", (width // ranks, width)
            yield f"{block}.inter_attention.key_value.weight", (2 * width // ranks, width)
            yield f"{block}.inter_attention.dense.weight", (width, width // ranks)
        yield f"{block}.mlp.dense_h_to_4h.weight", (2 * ffn // ranks, width)
        yield f"{block}.mlp.dense_4h_to_h.weight", (width, ffn // ranks)
    yield "final_norm.weight", (width,)
    yield "final_norm.bias", (width,)


def generate(name: str, folder: str) -> None:
    """Write a checkpoint in bfloat16, one shard in memory at a time; embeddings are tied in the GPT."""
    model = SHAPES[name]
    arguments = argparse.Namespace(
        num_layers=model.layers, hidden_size=model.width, ffn_hidden_size=ffn_size(model.width),
        num_attention_heads=model.heads, rotary_percent=0.5, max_position_embeddings=4096, apply_layernorm_1p=True,
        untie_embeddings_and_output_weights=model.retro, swiglu=True, tensor_model_parallel_size=model.ranks,
        retro_add_retriever=model.retro, params_dtype=torch.bfloat16,
    )  # fmt: skip

    def filled(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.linspace(-1, 1, torch.Size(shape).numel(), dtype=torch.bfloat16).view(shape)

    for rank in range(model.ranks):
        rows = (model.vocab_size // model.ranks, model.width)
        weights = {
            "encoder": {name: filled(shape) for name, shape in shapes(model)},
            "embedding": {"word_embeddings": {"weight": filled(rows)}},
        }
        if model.retro:
            weights["output_layer"] = {"weight": filled(rows)}
        path = Path(folder) / "iter_0000001" / f"mp_rank_{rank:02d}" / "model_optim_rng.pt"
        path.parent.mkdir(parents=True)
        saved = {"args": arguments, "checkpoint_version": 3.0, "iteration": 1, "model": {"language_model": weights}}
        torch.save(saved, path)


def convert(name: str, source: str, out: str) -> None:
    """Convert, and print the memory at the start and at the peak."""
    from retrotune.models.convert import convert_checkpoint

    start, began = memory("VmRSS"), time.monotonic()
    convert_checkpoint(source, out, chunk_length=64, vocab_size=SHAPES[name].vocab_size)
    print(json.dumps({"start": start, "peak": memory("VmHWM"), "seconds": time.monotonic() - began}))


def memory(field: str) -> int:
    """Bytes of this process: resident now (VmRSS) or at most (VmHWM)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def measure(name: str) -> int:
    """Print the figures of one generated checkpoint; its peak."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = f"{folder}/megatron", f"{folder}/out"
        subprocess.run([sys.executable, __file__, "generate", name, source], check=True)
        command = [sys.executable, __file__, "convert", name, source, out]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        size = sum(path.stat().st_size for path in Path(source).rglob("*.pt"))
        files = len(list(Path(out).glob("*.safetensors")))
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"VALUE convert_{name}_checkpoint_bytes {size}")
    print(f"VALUE convert_{name}_files {files}")
    print(f"VALUE convert_{name}_seconds {found['seconds']:.1f}")
    print(f"VALUE convert_{name}_start_bytes {found['start']}")
    print(f"VALUE convert_{name}_peak_bytes {found['peak']}")
    print(f"RATIO convert_{name}_peak_over_checkpoint {found['peak'] / size:.3f}")
    return int(found["peak"])


def main() -> None:
    """Run and print. With arguments, this is one of the child processes."""
    if len(sys.argv) > 1:
        {"generate": generate, "convert": convert}[sys.argv[1]](*sys.argv[2:])
        return
    measure("retro")
    peak = measure("layer_of_48b")
    wanted = expected_shapes(model_config("retro", "xxl"))
    largest = max(2 * torch.Size(shape).numel() for shape in wanted.values())
    print(f"VALUE convert_48b_largest_tensor_bytes {largest}")
    print(f"RATIO convert_48b_peak_over_limit {peak / LIMIT:.3f}")


if __name__ == "__main__":
    main()
