"""How fast a machine does the work that the plan counts: measured here in seconds, or taken from another machine."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrotune.errors import ConfigError
from retrotune.runtime.devices import torch_device

REFERENCE = "two cores of an AMD EPYC with AVX-512, no GPU"
UNITS: dict[str, str] = {
    "chunking": "passages of 100 words per second",
    "encoder": "operations per second of a BERT in float32",
    "matrix": "operations per second of matrix products in FAISS",
    "codes": "comparisons per second of a sub-vector with a PQ centroid",
    "scan": "bytes of stored vectors per second that a search compares",
    "scan_codes": "bytes of PQ codes per second that a search compares",
    "graph": "bytes of vectors per second that a walk through a graph compares",
    "read": "bytes of float16 vectors per second, read and widened",
    "words": "words per second that BM25 reads and weighs",
    "scores": "passages per second that BM25 scores for a question",
}
REFERENCE_RATES: dict[str, float] = {
    "chunking": 2.0e4,
    "encoder": 1.7e11,
    "matrix": 1.6e11,
    "codes": 7.0e9,
    "scan": 3.0e10,
    "scan_codes": 4.0e9,
    "graph": 1.8e10,
    "read": 1.3e9,
    "words": 1.5e6,
    "scores": 1.0e8,
}


@dataclass(frozen=True)
class Rate:
    """A rate, what it counts, and where it is from."""

    value: float
    unit: str
    source: str


Rates = Mapping[str, Rate]


def reference_rates() -> dict[str, Rate]:
    """Rates measured on the machine that `REFERENCE` describes."""
    return {name: Rate(value, UNITS[name], REFERENCE) for name, value in REFERENCE_RATES.items()}


def given_rates(settings: list[str]) -> dict[str, Rate]:
    """Rates given as NAME=VALUE; `ConfigError` for a name that is none or a value that is no positive number."""
    rates = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        if name not in UNITS:
            raise ConfigError(f"--rate {setting}: no rate {name!r}; there are {', '.join(UNITS)}")
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise ConfigError(f"--rate {setting}: write {name}=NUMBER, in {UNITS[name]}")
        rates[name] = Rate(value, UNITS[name], "given")
    return rates


def measured_rates() -> dict[str, Rate]:
    """Rates of this machine with all its cores, measured in some ten seconds on made-up data."""
    measured = {"chunking": _chunking(), "encoder": _encoder(), "read": _reading(), **_bm25_rates(), **_faiss_rates()}
    return {name: Rate(value, UNITS[name], "measured here") for name, value in measured.items()}


def _per_second(work: float, run: Callable[[], Any], seconds: float = 0.5) -> float:
    """`work` of one run over its time, the first run left out."""
    run()
    began, runs = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        run()
        runs += 1
    return work * runs / (time.perf_counter() - began)


def _chunking() -> float:
    from retrotune.preparing.chunking import split_passages

    sentence = "The river was measured in 1907 by J. Smith, who found it longer than any other. "
    text = sentence * 500
    return _per_second(len(split_passages(text, 100)), lambda: split_passages(text, 100), 0.3)


def _reading() -> float:
    halves = np.ones((8192, 384), dtype=np.float16)
    return _per_second(halves.nbytes, lambda: halves.astype(np.float32), 0.2)


def _bm25_rates() -> dict[str, float]:
    import bm25s

    from retrotune.retrieval.search.ranking import best_rows

    rng = np.random.default_rng(0)
    numbers = np.minimum(rng.zipf(1.15, size=(10_000, 100)), 100_000)  # as seldom and as often as words of English
    texts = [" ".join(f"w{number}" for number in row) for row in numbers.tolist()]
    began = time.perf_counter()
    tokens = bm25s.tokenize(texts, show_progress=False)
    searched = bm25s.BM25(backend="numpy")
    searched.index(tokens, show_progress=False)
    read = time.perf_counter() - began
    words = np.array([tokens.vocab[f"w{number}"] for number in numbers[0, :10].tolist()], dtype=np.int32)
    scored = _per_second(len(texts), lambda: best_rows(searched.get_scores_from_ids(words), 5))
    return {"words": numbers.size / read, "scores": scored}


def _encoder() -> float:
    import torch
    from transformers import BertConfig, BertModel

    from retrotune.plan.collections import MINILM
    from retrotune.retrieval.vectors.linear import pack_linears

    shape = {"hidden_size": MINILM.width, "num_hidden_layers": MINILM.layers, "intermediate_size": MINILM.inner}
    device = torch_device()
    with torch.random.fork_rng():
        plain = BertModel(BertConfig(num_attention_heads=12, vocab_size=1000, **shape), add_pooling_layer=False)
    model = pack_linears(plain.eval().to(device))
    ids = torch.arange(8192, device=device).view(64, 128) % 1000
    work = ids.numel() * MINILM.operations_per_token(128)

    @torch.inference_mode()
    def run() -> Any:
        return model(input_ids=ids).last_hidden_state.sum().item()

    return _per_second(work, run, 1.0)


def _faiss_rates() -> dict[str, float]:
    import faiss

    from retrotune.plan.formulas import HNSW_EF_CONSTRUCTION, graph_steps

    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(16384, 128)).astype(np.float32)
    flat = faiss.IndexFlatIP(128)
    flat.add(vectors)
    rates = {"matrix": _per_second(2.0 * 1024 * vectors.size, lambda: flat.search(vectors[:1024], 1))}
    coarse = faiss.IndexFlatIP(128)
    coded = faiss.IndexIVFPQ(coarse, 128, 16, 64, 8, faiss.METRIC_INNER_PRODUCT)
    coded.cp.niter, coded.pq.cp.niter = 2, 1
    coded.train(vectors[:4096])
    rates["codes"] = _per_second(len(vectors) * 64 * 256.0, lambda: coded.pq.compute_codes(vectors))
    for _ in range(8):
        coded.add(vectors)
    coded.nprobe = 16
    rates["scan_codes"] = _per_second(64.0 * 64 * coded.ntotal, lambda: coded.search(vectors[:64], 20))
    lists = faiss.IndexIVFFlat(coarse, 128, 16, faiss.METRIC_INNER_PRODUCT)
    for _ in range(16):  # more than caches hold
        lists.add(vectors)
    lists.nprobe = 16
    rates["scan"] = _per_second(4.0 * 16 * vectors.nbytes, lambda: lists.search(vectors[:4], 20))
    graph = faiss.IndexHNSWFlat(128, 32, faiss.METRIC_INNER_PRODUCT)
    began = time.perf_counter()
    graph.add(vectors[:8192])
    steps = 8192 * graph_steps(HNSW_EF_CONSTRUCTION, 32, 8192)
    rates["graph"] = steps * 4 * 128 / (time.perf_counter() - began)
    return rates
