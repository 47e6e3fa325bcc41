"""What cells of the paper's sizes take on one GPU: seconds per step and per answer, and peak memory.

    python benchmarks/gpu.py [--cells retro-s:lora retro-s:full retro-m:lora gpt-m:zeroshot] [--steps 8] [--rows 8]

Models are config/paper.yaml's with random weights in bfloat16, which cost what trained ones do; questions and passages
are random words, so that every prompt is as long as the study allows (`max_length`). The cells are its own but for the
number of steps (and `--rows`, their micro_batch_size, where given), and run through the workflow's functions. Memory is
the GPU's, weights included. A model takes twice its number of weights, in bytes, on the disk of the temporary folder.
"""

import argparse
import gc
import json
import random
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import pandas as pd
import torch
from transformers import GenerationConfig

from retrotune.data.datasets.base import Example
from retrotune.models import RetroForCausalLM
from retrotune.models.sizes import model_config
from retrotune.prediction.generate import predict_cell
from retrotune.preparing.examples import write_examples
from retrotune.study.cells import Cell
from retrotune.study.config import CorpusEntry, read_config
from retrotune.study.resolve import cell_stages
from retrotune.study.stages import TrainTokenizerParams
from retrotune.training.finetune import finetune_cell
from retrotune.training.tokenizer import train_tokenizer, wrap_tokenizer

REPOSITORY = Path(__file__).resolve().parent.parent
DEFAULT = ["retro-s:lora", "retro-s:full", "retro-m:lora", "gpt-m:zeroshot"]
DATASET, RETRIEVAL, SEED = "nq", "dragon5", 1234
TRAINED, ASKED = 32, 16
PASSAGES, PASSAGE_WORDS, LONG = 5, 100, 300
GB = 1e9


def words(number: int) -> str:
    return " ".join("".join(random.choices("abcdefghij", k=4)) for _ in range(number))


def write_questions(folder: Path) -> None:
    """Train and test questions with five passages each; the questions are long, so that short prompts are full too."""
    for split, count in (("train", TRAINED), ("test", ASKED)):
        ids = [f"{split}{number}" for number in range(count)]
        asked = [Example(name, words(LONG), (words(4),)) for name in ids]
        write_examples(folder / f"{split}.parquet", asked, with_answer=split == "train")
        found = [
            {
                "question_id": name,
                "rank": rank,
                "passage_id": f"{name}-{rank}",
                "title": "t",
                "text": text,
                "score": 1.0,
            }
            for name in ids
            for rank, text in enumerate(words(PASSAGE_WORDS) for _ in range(PASSAGES))
        ]
        pd.DataFrame(found).to_parquet(folder / f"{split}-neighbors.parquet")


def write_model(family: str, size: str, tokenizer: Path, folder: Path) -> int:
    """A random model of the paper's size with a tokenizer of a few hundred words; its number of weights."""
    wrapped = wrap_tokenizer(tokenizer)
    config = model_config(family, size, eos_token_id=wrapped.eos_token_id, pad_token_id=wrapped.pad_token_id)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            model = RetroForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    model.generation_config = GenerationConfig.from_model_config(config)
    model.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    number = model.num_parameters()
    del model
    free()
    return number


def free() -> None:
    """Give back what is no longer used: a Trainer and its model refer to each other."""
    gc.collect()
    torch.cuda.empty_cache()


def measure(config, name: str, model_dir: Path, folder: Path, changes: dict) -> None:
    """Fine-tune and answer one cell, and print what it took."""
    model, method = name.split(":")
    cell = Cell(model, method, DATASET, RETRIEVAL, SEED)
    used = cell_stages(config, cell)
    out, adapter = folder / name.replace(":", "-"), None
    label = name.replace(":", "_").replace("-", "_")
    if "finetune_cell" in used:
        recipe = used["finetune_cell"].recipe.model_copy(update=changes | {"warmup_steps": 1})
        params = used["finetune_cell"].model_copy(update={"recipe": recipe})
        free()
        inputs = (folder / "train.parquet", folder / "train-neighbors.parquet")
        finetune_cell(params, cell, model_dir, *inputs, out, folder / "work")
        summary = json.loads((out / "train.json").read_text())
        log = [json.loads(line) for line in (out / "train_log.jsonl").read_text().splitlines()]
        assert all(line["loss"] > 0 for line in log), log
        # the median: kernels are loaded in the first steps, when they are needed for the first time
        step = statistics.median(later["seconds"] - line["seconds"] for line, later in pairwise(log))
        tokens = (log[-1]["tokens"] - log[0]["tokens"]) / (len(log) - 1)
        print(f"VALUE {label}_step_seconds {step:.3f}")
        print(f"VALUE {label}_tokens_per_second {tokens / step:.0f}")
        print(f"VALUE {label}_train_peak_gb {summary['peak_memory_bytes'] / GB:.1f}", flush=True)
        adapter = out / "adapter"
    free()
    torch.cuda.reset_peak_memory_stats()
    inputs = (folder / "test.parquet", folder / "test-neighbors.parquet")
    predictions = out / "predictions.jsonl"
    out.mkdir(exist_ok=True)
    asked = (*inputs, predictions, out / "predict.json", folder / "work" / label)
    predict_cell(used["predict_cell"], cell, model_dir, adapter, *asked)
    summary = json.loads((out / "predict.json").read_text())
    assert len(predictions.read_text().splitlines()) == ASKED
    print(f"VALUE {label}_answer_seconds {summary['seconds'] / ASKED:.3f}")
    print(f"VALUE {label}_generated_tokens_per_second {summary['generated_tokens'] / summary['seconds']:.0f}")
    print(f"VALUE {label}_predict_peak_gb {summary['peak_memory_bytes'] / GB:.1f}", flush=True)


def main() -> None:
    """Measure the cells asked for, those of one model after each other."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", nargs="+", default=DEFAULT, metavar="MODEL:METHOD")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rows", type=int, metavar="N", help="examples per forward pass of fine-tuning")
    arguments = parser.parse_args()
    changes = {"max_steps": arguments.steps} | ({"micro_batch_size": arguments.rows} if arguments.rows else {})
    if not torch.cuda.is_available():
        sys.exit("no GPU here")
    config = read_config(REPOSITORY / "config/paper.yaml")
    random.seed(SEED)
    print(f"VALUE gpu_name {torch.cuda.get_device_name()}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "words.txt").write_text("\n\n".join(words(40) for _ in range(400)), encoding="utf-8")
        corpora = {"words": CorpusEntry(reader="text", path="words.txt", documents="paragraph")}
        train_tokenizer(TrainTokenizerParams(corpora=corpora, vocab_size=512), folder, folder / "tokenizer.json")
        write_questions(folder)
        for model in dict.fromkeys(cell.partition(":")[0] for cell in arguments.cells):
            start = time.monotonic()
            entry = config.models[model]
            with tempfile.TemporaryDirectory() as weights:
                number = write_model(entry.family, entry.size, folder / "tokenizer.json", Path(weights))
                print(f"{model}: {number / GB:.2f} billion weights, written in {time.monotonic() - start:.0f} s")
                for cell in arguments.cells:
                    if cell.startswith(f"{model}:"):
                        measure(config, cell, Path(weights), folder, changes)


if __name__ == "__main__":
    main()
