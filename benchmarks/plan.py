"""The plan against real builds: bytes and peak private memory of each index, foretold and measured.

Each index is built by `build_index` in a process of its own, whose private memory (RssAnon: mapped files, which the
system can drop, are not in it) is read every 10 ms. The vectors are clustered, normalized, float16.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from retrotune.plan.formulas import adding_work, build_peak, index_bytes, parse_factory, training_work
from retrotune.plan.rates import measured_rates
from retrotune.retrieval.search.factory import settle
from retrotune.retrieval.search.index import build_index, manifest_path
from retrotune.runtime.files import block_path, read_json, sha256, write_json
from retrotune.study.config import IndexEntry
from retrotune.study.stages import BuildIndexParams

BLOCK = 50_000
POLL_SECONDS = 0.01


def write_vectors(manifest: Path, rows: int, dim: int) -> None:
    """Embeddings as `embed_passages` leaves them, of clustered vectors."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(2000, dim)).astype(np.float32)
    blocks = []
    for number, start in enumerate(range(0, rows, BLOCK)):
        count = min(BLOCK, rows - start)
        drawn = centers[rng.integers(0, len(centers), count)] + rng.normal(size=(count, dim)).astype(np.float32)
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        path = block_path(manifest.with_suffix(""), number, ".npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, drawn.astype(np.float16))
        blocks.append({"rows": count, "sha256": sha256(path)})
    keys = {"retriever": "made up", "passages": "none", "passages_sha256": "none"}
    write_json(manifest, {"stage_version": 0, "rows": rows, "dim": dim, "blocks": blocks, **keys})


def private_peak(command: list[str]) -> tuple[int, float]:
    """(highest private memory in bytes, seconds) of a process."""
    began, peak = time.perf_counter(), 0
    process = subprocess.Popen(command)
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            held = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")]
            peak = max(peak, 1024 * int(held[0])) if held else peak
        except OSError:
            pass
        time.sleep(POLL_SECONDS)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return peak, time.perf_counter() - began


def compare(entry: IndexEntry, manifest: Path, dim: int, rows: int, rates: Any) -> list[str]:
    """Figures of one preset."""
    preset = entry.preset
    settings = settle(entry, rows)
    factory = parse_factory(settings.factory, dim)
    out = manifest.parent / f"{preset}.json"
    peak, seconds = private_peak(
        [sys.executable, __file__, "--build", BuildIndexParams(index=entry).text(), str(manifest), str(out)]
    )
    measured = read_json(manifest_path(out))
    written = sum(file.stat().st_size for file in out.with_suffix("").glob("*.faiss"))
    planned = index_bytes(factory, rows, settings.num_shards)
    foretold = build_peak(factory, rows, settings.training_vectors, settings.num_shards)
    work = [
        a + b
        for a, b in zip(training_work(factory, settings.training_vectors), adding_work(factory, rows)[:2], strict=True)
    ]
    guess = work[0] / rates["matrix"].value + work[1] / rates["codes"].value
    guess += adding_work(factory, rows)[2] * 4 * factory.inner_dim / rates["graph"].value
    print(
        f"{preset} ({settings.factory}): {written:,} bytes (plan {planned:,.0f}), peak {peak:,} (plan {foretold:,.0f}),"
    )
    print(f"  build {measured['build_seconds']:.0f} s (plan {guess:.0f}), whole process {seconds:.0f} s", flush=True)
    lines = [f"RATIO plan_peak_{preset} {foretold / peak:.3f}"]
    if written:
        lines.insert(0, f"RATIO plan_bytes_{preset} {planned / written:.3f}")
        lines.append(f"RATIO plan_seconds_{preset} {guess / measured['build_seconds']:.2f}")
    return lines


def main() -> None:
    """Build, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--presets", nargs="+", default=["exact", "ivf-flat", "ivf-pq"])
    parser.add_argument("--training-vectors", type=int, default=200_000)
    parser.add_argument("--folder", type=Path, help="where the vectors are written")
    parser.add_argument("--build", nargs=3, metavar=("PARAMS", "MANIFEST", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.build:
        params, manifest, out = arguments.build
        build_index(BuildIndexParams.of(params), manifest, out)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        manifest = Path(folder) / "vectors.json"
        write_vectors(manifest, arguments.vectors, arguments.dim)
        rates = measured_rates()
        lines: list[str] = []
        for preset in arguments.presets:
            entry = IndexEntry(preset=preset, training_vectors=arguments.training_vectors)
            lines += compare(entry, manifest, arguments.dim, arguments.vectors, rates)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
