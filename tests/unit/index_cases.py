"""Hand-made embeddings for the tests of indexes."""

from pathlib import Path

import numpy as np
import pandas as pd

from retrotune.retrieval.search.index import build_index
from retrotune.runtime.files import sha256, write_json, write_parquet
from retrotune.study.config import IndexEntry
from retrotune.study.stages import BuildIndexParams


def write_embeddings(folder: Path, blocks: list[np.ndarray]) -> Path:
    """Vectors in the layout of `embed_passages`, with passages p0, p1, …; the manifest's path."""
    manifest, passages = folder / "e.json", folder / "p.parquet"
    (folder / "e").mkdir(parents=True)
    records = []
    for number, block in enumerate(blocks):
        path = folder / "e" / f"{number:05d}.npy"
        np.save(path, block.astype(np.float16))
        records.append({"rows": len(block), "sha256": sha256(path)})
    rows, dim = sum(map(len, blocks)), blocks[0].shape[1]
    frame = {name: [f"p{row}" for row in range(rows)] for name in ("passage_id", "doc_id", "title", "text")}
    write_parquet(passages, pd.DataFrame(frame))
    made_from = {"retriever": "hand", "passages": str(passages), "passages_sha256": sha256(passages)}
    write_json(manifest, {"rows": rows, "dim": dim, "blocks": records, **made_from})
    return manifest


def build(embeddings: Path, entry: IndexEntry, out: Path) -> Path:
    """An index over these vectors; its path."""
    build_index(BuildIndexParams(index=entry), embeddings, out)
    return out


def clustered(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    """Vectors of length 1 around a twentieth as many centers, as float16."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(max(1, rows // 20), dim))
    vectors = centers[rng.integers(len(centers), size=rows)] + 0.3 * rng.normal(size=(rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
