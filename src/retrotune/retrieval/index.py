"""FAISS indexes by factory string, inner product, tied to the vectors they were made from by a manifest."""

from pathlib import Path
from typing import Any

import numpy as np

from retrotune.config import IndexEntry
from retrotune.errors import DataError, RetrievalError
from retrotune.files import atomic_write, read_json, sha256, write_json
from retrotune.log import logger, progress
from retrotune.retrieval.embeddings import Embeddings, check_vectors
from retrotune.stages import STAGE_VERSIONS

TRAINING_VECTORS = 200_000


def manifest_path(index: str | Path) -> Path:
    """`{index}.manifest.json` beside `{index}.faiss`."""
    return Path(index).with_suffix(".manifest.json")


def build_index(embeddings_manifest: str | Path, index: IndexEntry, out_index: str | Path) -> None:
    """Build a FAISS index over all vectors, block by block, and write it with its manifest.

    An index that learns from data (IVF, PQ) is trained on evenly spaced vectors. Raises `RetrievalError` for a factory
    string that FAISS does not know or cannot train on so few vectors, for damaged blocks, and for a vector that is zero
    or not finite (naming the passage).
    """
    import faiss

    vectors = Embeddings(embeddings_manifest)
    out_index = Path(out_index)
    try:
        built = faiss.index_factory(vectors.dim, index.factory, faiss.METRIC_INNER_PRODUCT)
        if not built.is_trained:
            sample = np.linspace(0, vectors.rows - 1, min(vectors.rows, TRAINING_VECTORS)).astype(np.int64)
            built.train(vectors.take(sample))
        if index.nprobe is not None:
            faiss.ParameterSpace().set_index_parameter(built, "nprobe", index.nprobe)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        settings = f"factory {index.factory!r}, nprobe {index.nprobe}"
        raise RetrievalError(
            f"{settings} does not suit {vectors.rows} vectors of width {vectors.dim}: {reason}"
        ) from error
    for start, block in progress(vectors.blocks(), "blocks indexed"):
        check_vectors(block, lambda row, start=start: vectors.name_of(start + row))
        built.add(block)
    manifest_path(out_index).unlink(missing_ok=True)
    with atomic_write(out_index) as temporary:
        faiss.write_index(built, str(temporary))
    manifest = {
        "stage_version": STAGE_VERSIONS["build_index"],
        "count": built.ntotal,
        "dim": vectors.dim,
        "factory": index.factory,
        "nprobe": index.nprobe,
        "bytes": out_index.stat().st_size,
        "sha256": sha256(out_index),
        "embeddings_sha256": sha256(embeddings_manifest),
    }
    write_json(manifest_path(out_index), manifest)
    logger.info("%s: %d vectors, %s", out_index, built.ntotal, index.factory)


def open_index(index: str | Path, embeddings_manifest: str | Path) -> Any:
    """Read an index and verify that it is whole and was made from these embeddings.

    Raises `RetrievalError` if it is missing, damaged, or belongs to other embeddings.
    """
    import faiss

    remedy = f"delete {index} and run build_index"
    try:
        manifest = read_json(manifest_path(index))
        embeddings = read_json(embeddings_manifest)
    except DataError as error:
        raise RetrievalError(f"{error}; {remedy}") from error
    if not isinstance(manifest, dict) or manifest.get("embeddings_sha256") != sha256(embeddings_manifest):
        raise RetrievalError(f"{index}: made from other embeddings than {embeddings_manifest}; {remedy}")
    if not Path(index).is_file():
        raise RetrievalError(f"{index}: no such index; {remedy}")
    if sha256(index) != manifest["sha256"]:
        raise RetrievalError(f"{index}: damaged (checksum differs); {remedy}")
    opened = faiss.read_index(str(index))
    if (opened.ntotal, opened.d) != (embeddings["rows"], embeddings["dim"]):
        found = (
            f"holds {opened.ntotal} vectors of width {opened.d}, expected {embeddings['rows']} of {embeddings['dim']}"
        )
        raise RetrievalError(f"{index}: {found}; {remedy}")
    return opened
