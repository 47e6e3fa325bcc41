"""RETRO's costs, side by side: decoding with and without the cache, time against operations, training against NVIDIA.

Parts (all, or those named on the command line): decode, flops, megatron, gpu. The first three need two free CPU cores
and some ten minutes; `megatron` makes a virtual environment of its own with megatron-core, the last release that has
RETRO; `gpu` needs a GPU with 40 GB or more.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from retrotune.models import RetroConfig, RetroForCausalLM
from retrotune.models.sizes import ffn_size, model_config

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE / "results" / "megatron-core"
MEGATRON_CORE = "megatron-core==0.15.3"
THREADS = 2
VOCABULARY = 8_000
NEIGHBORS, RETRIEVED, CHUNK = 2, 128, 64
# The decoder of the comparisons with GPT and with megatron-core: the depth of the paper's xs and s.
SHAPE = {"layers": 24, "hidden": 512, "heads": 8, "ffn": ffn_size(512), "vocabulary": VOCABULARY}
SHAPE |= {"batch": 2, "length": 512, "neighbors": NEIGHBORS, "retrieved": RETRIEVED, "chunk": CHUNK}


def build(layers: int, hidden: int, heads: int, ffn: int, cross: list[int] | None) -> RetroForCausalLM:
    """A model with random weights; `cross` []: GPT, None: RETRO by NVIDIA's rule."""
    torch.manual_seed(0)
    return RetroForCausalLM(
        RetroConfig(
            vocab_size=VOCABULARY,
            num_hidden_layers=layers,
            hidden_size=hidden,
            num_attention_heads=heads,
            intermediate_size=ffn,
            cross_attention_layers=cross,
            chunk_length=CHUNK,
            retrieved_length=RETRIEVED,
        )
    )


def tokens(*shape: int) -> torch.Tensor:
    """Random token ids."""
    return torch.randint(2, VOCABULARY, shape)


def best(step: Callable[[], object], rounds: int) -> float:
    """Seconds of the fastest of some rounds."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def decode() -> None:
    """64 tokens after a prompt of 512, batch 8, 6 layers of width 256."""
    new = 64
    prompt_BT, neighbor_ids_BKR = tokens(8, 512), tokens(8, NEIGHBORS, RETRIEVED)
    for name, cross in (("gpt", []), ("retro", None)):
        model = build(6, 256, 4, ffn_size(256), cross).eval()
        given = {"input_ids": prompt_BT, "attention_mask": torch.ones_like(prompt_BT)}
        if cross is None:
            given["neighbor_ids"] = neighbor_ids_BKR
        settings = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}

        def generate(use_cache: bool, model=model, given=given, settings=settings) -> None:
            model.generate(**given, **settings, use_cache=use_cache)

        cached = best(lambda: generate(True), 5)
        uncached = best(lambda: generate(False), 1)
        for kind, seconds in (("cached", cached), ("uncached", uncached)):
            print(f"VALUE {name}_{kind}_tokens_per_second {8 * new / seconds:.0f}")
        prefix = "" if name == "retro" else f"{name}_"
        print(f"RATIO {prefix}cached_vs_uncached_decode {uncached / cached:.1f}", flush=True)


def training_step(model: RetroForCausalLM, **given: torch.Tensor) -> Callable[[], object]:
    """Forward and backward of the next-token loss."""

    def step() -> None:
        model.zero_grad()
        model(**given, labels=given["input_ids"]).loss.backward()

    return step


def counted_operations(step: Callable[[], object]) -> int:
    """Floating-point operations of a step; torch's counter knows attention on a CPU only if told."""
    attention = torch.ops.aten

    def forward(query, key, value, *args, out_shape=None, **kwargs) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(grad_out, query, key, value, *args, out_shape=None, **kwargs) -> int:
        return sdpa_backward_flop_count(grad_out, query, key, value)

    mapping = {
        attention._scaled_dot_product_flash_attention_for_cpu: forward,
        attention._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        step()
    return counter.get_total_flops()


def flops() -> None:
    """Forward and backward of RETRO over GPT: time against counted operations; and what shared neighbors save."""
    batch, length = SHAPE["batch"], SHAPE["length"]
    ids_BT = tokens(batch, length)
    shape = (SHAPE["layers"], SHAPE["hidden"], SHAPE["heads"], SHAPE["ffn"])
    gpt, retro = build(*shape, cross=[]).train(), build(*shape, cross=None).train()
    chunks = length // CHUNK
    steps = {
        "gpt": training_step(gpt, input_ids=ids_BT),
        "retro": training_step(retro, input_ids=ids_BT, neighbor_ids=tokens(batch, chunks, NEIGHBORS, RETRIEVED)),
        "retro_shared": training_step(retro, input_ids=ids_BT, neighbor_ids=tokens(batch, NEIGHBORS, RETRIEVED)),
    }
    operations = {name: counted_operations(step) for name, step in steps.items()}
    seconds = dict.fromkeys(steps, float("inf"))
    for _ in range(6):  # in turn, so that a busy moment of the machine hits all alike
        for name, step in steps.items():
            seconds[name] = min(seconds[name], best(step, 1))
    for name in steps:
        print(f"VALUE {name}_step_gflop {operations[name] / 1e9:.0f}")
        print(f"VALUE {name}_step_seconds {seconds[name]:.2f}")
    for name in ("retro", "retro_shared"):
        print(f"VALUE {name}_flops_over_gpt {operations[name] / operations['gpt']:.3f}")
        print(f"VALUE {name}_time_over_gpt {seconds[name] / seconds['gpt']:.3f}")
    encoder = retro_encoder_parts()
    print(f"VALUE shared_neighbors_flops_saved_of_encoder {1 - encoder['shared'] / encoder['per_chunk']:.3f}")
    print(f"RATIO shared_neighbors_step_time {seconds['retro'] / seconds['retro_shared']:.3f}")
    ratio = (seconds["retro"] / seconds["gpt"]) / (operations["retro"] / operations["gpt"])
    print(f"RATIO retro_gpt_time_over_flops {ratio:.3f}", flush=True)


def retro_encoder_parts() -> dict[str, int]:
    """Operations of the neighbor encoder's forward with one set per chunk, and with one for all 8 chunks."""
    encoder = build(6, SHAPE["hidden"], SHAPE["heads"], SHAPE["ffn"], None).model.neighbor_encoder
    chunks_BLCD = torch.randn(1, 8, CHUNK, SHAPE["hidden"])
    counted = {}
    for name, sets in (("per_chunk", 8), ("shared", 1)):
        embedded = torch.randn(sets * NEIGHBORS, RETRIEVED, SHAPE["hidden"])

        def run(embedded=embedded, sets=sets) -> None:
            begun = encoder.begin(embedded, None).unflatten(0, (1, sets, NEIGHBORS))
            encoder.attend(begun, None, chunks_BLCD, None)

        with torch.no_grad():
            counted[name] = counted_operations(run)
    return counted


def megatron() -> None:
    """The same RETRO, the same step of 2,048 tokens: ours against megatron-core's on this machine."""
    python = megatron_python()
    if python is None:
        return
    # short sequences are matrix products in either program; at RETRO's own length attention and its memory show
    for batch, length in ((4, 512), (1, 2048)):
        shape = SHAPE | {"batch": batch, "length": length, "threads": THREADS}
        ours, theirs = (batch * length / seconds for seconds in both_steps(python, shape))
        print(f"VALUE retrotune_train_tokens_per_second_at_{length} {ours:.0f}")
        print(f"VALUE megatron_core_train_tokens_per_second_at_{length} {theirs:.0f}")
        name = "train_vs_megatron_core" if length == 2048 else f"train_vs_megatron_core_at_{length}"
        print(f"RATIO {name} {ours / theirs:.2f}", flush=True)


def both_steps(python: Path, shape: dict[str, int]) -> tuple[float, float]:
    """Seconds of one training step, ours and megatron-core's, the fastest of two turns each."""
    batch, length = shape["batch"], shape["length"]
    model = build(shape["layers"], shape["hidden"], shape["heads"], shape["ffn"], None).train()
    neighbor_ids_BLKR = tokens(batch, length // CHUNK, NEIGHBORS, RETRIEVED)
    step = training_step(model, input_ids=tokens(batch, length), neighbor_ids=neighbor_ids_BLKR)
    ours = theirs = float("inf")
    for _ in range(2):  # in turn, as above
        ours = min(ours, best(step, 3))
        command = [str(python), str(HERE / "megatron_core_step.py"), json.dumps(shape)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            sys.exit(f"megatron-core's step failed:\n{run.stderr[-3000:]}")
        found = json.loads(run.stdout.splitlines()[-1])
        theirs = min(theirs, found["seconds"])
    final_norm = 2 * shape["hidden"]  # megatron-core leaves it out
    assert found["parameters"] + final_norm == model.num_parameters(), "not the same model"
    return ours, theirs


def megatron_python() -> Path | None:
    """The interpreter of an environment with megatron-core and this torch; None, with the reason printed, if none."""
    python = ENVIRONMENT / "bin" / "python"
    torch_version = torch.__version__.split("+")[0]
    commands = [
        [sys.executable, "-m", "venv", str(ENVIRONMENT)],
        [str(python), "-m", "pip", "install", "--quiet", MEGATRON_CORE, f"torch=={torch_version}"],
    ]
    check = [str(python), "-c", "import megatron.core.models.retro"]
    if not python.exists() or subprocess.run(check, capture_output=True, check=False).returncode:
        for command in commands:
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            if run.returncode:
                print(f"SKIP train_vs_megatron_core: {' '.join(command)} failed: {run.stderr.strip()[-300:]}")
                return None
    return python


def gpu() -> None:
    """LoRA on RETRO of the paper's size m (8.5B GPT) in bfloat16: model FLOP utilization and peak memory."""
    if not torch.cuda.is_available():
        print("SKIP gpu: no GPU here")
        return
    from peft import LoraConfig, get_peft_model

    torch.set_default_device("cuda")
    with torch.device("cuda"):
        model = RetroForCausalLM(model_config("retro", "m")).to(torch.bfloat16)
    lora = LoraConfig(r=32, target_modules=r".*self_attention\.(q|k|v)_proj")
    model = get_peft_model(model, lora).train()
    ids_BT, neighbor_ids_BKR = tokens(4, 1024), tokens(4, 4, RETRIEVED)
    step = training_step(model, input_ids=ids_BT, neighbor_ids=neighbor_ids_BKR)

    def finished() -> None:
        step()
        torch.cuda.synchronize()

    operations = counted_operations(finished)
    seconds = best(finished, 10)
    peak = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bfloat16, from the makers' data sheets
    name = torch.cuda.get_device_name()
    print(f"VALUE gpu_name {name}")
    print(f"VALUE gpu_step_seconds {seconds:.3f}")
    print(f"VALUE gpu_tflops_per_second {operations / seconds / 1e12:.0f}")
    print(f"VALUE gpu_peak_bytes {torch.cuda.max_memory_allocated()}")
    for kind, ceiling in peak.items():
        if kind in name:
            print(f"RATIO gpu_model_flop_utilization {operations / seconds / ceiling:.3f}", flush=True)


PARTS = {"decode": decode, "flops": flops, "megatron": megatron, "gpu": gpu}


def main() -> None:
    """Run the named parts, or all."""
    unknown = [name for name in sys.argv[1:] if name not in PARTS]
    if unknown:
        sys.exit(f"unknown part {unknown[0]!r}; known: {', '.join(PARTS)}")
    torch.set_num_threads(THREADS)
    for name in sys.argv[1:] or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main()
