"""FAISS indexes out of the configuration: factory strings, their training, search settings and devices."""

import math
import re
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from retrotune.errors import RetrievalError
from retrotune.retrieval.vectors.embeddings import ROWS_AT_ONCE, Embeddings
from retrotune.runtime.log import logger
from retrotune.study.config import IndexEntry

VECTORS_PER_LIST = 39
"""k-means wants this many per centroid; FAISS warns below it."""
TURN_VECTORS = 65_536
"""Vectors that an OPQ or PCA matrix is learned from: as many as FAISS itself takes for OPQ."""


@dataclass(frozen=True)
class Settings:
    """An entry of the configuration made definite for a number of vectors; kept in the index file."""

    factory: str
    training_vectors: int
    num_shards: int
    nprobe: int | None
    ef_search: int | None
    rerank: int
    device: str

    @property
    def exact(self) -> bool:
        """Whether there is no FAISS index, and every vector is compared."""
        return self.factory == "Flat"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def num_lists(vectors: int, training_vectors: int) -> int:
    """The power of two nearest to 4 sqrt(vectors), at most a 39th of the training vectors and at least 1."""
    wanted = 2 ** round(math.log2(4 * math.sqrt(vectors)))
    return min(wanted, 2 ** int(math.log2(max(1, training_vectors // VECTORS_PER_LIST))))


def settle(entry: IndexEntry, vectors: int) -> Settings:
    """Fill in what an entry leaves open, for an index of `vectors`.

    Raises `RetrievalError` if `nprobe` exceeds the lists.
    """
    training = min(vectors, entry.training_vectors)
    num_shards = -(-vectors // (entry.shard_vectors or vectors))
    factory = entry.template.replace("{lists}", str(num_lists(-(-vectors // num_shards), training)))
    lists = re.search(r"IVF(\d+)", factory)
    nprobe, ef_search = entry.nprobe, entry.ef_search
    if lists is not None:
        count = int(lists[1])
        nprobe = nprobe or min(count, max(8, count // 64))
        if nprobe > count:
            raise RetrievalError(
                f"nprobe={nprobe} exceeds the {count} lists of {factory!r} over {vectors} vectors: set nprobe to"
                f" {count} at most, or leave it out"
            )
    if "HNSW" in factory and ef_search is None:
        ef_search = max(64, 2 * (nprobe or 0))
    return Settings(factory, training, num_shards, nprobe, ef_search, entry.candidates, entry.device)


def make_index(settings: Settings, vectors: Embeddings) -> Any:
    """A FAISS index by inner product, trained on evenly spaced vectors where it learns from data.

    Raises `RetrievalError` naming the settings, the reason that FAISS gives, and the remedy.
    """
    import faiss

    rotated = re.search(r"OPQ\d+_(\d+)", settings.factory)
    if rotated is not None and int(rotated[1]) > vectors.dim:
        raise RetrievalError(  # FAISS would pad the vectors and learn for minutes
            f"factory {settings.factory!r} does not suit vectors of width {vectors.dim}: it makes {rotated[1]}"
            f" dimensions of them; name a factory with {vectors.dim} or fewer, as IVF{{lists}},PQ8, or preset: ivf-flat"
        )
    try:
        index = faiss.index_factory(vectors.dim, settings.factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            logger.info("%s: learns from %d vectors", settings.factory, settings.training_vectors)
            _prepare_training(index, settings)
            _train(index, vectors, settings.training_vectors)
    except RuntimeError as error:
        raise RetrievalError(_refusal(settings, vectors, str(error))) from error
    return index


def _train(index: Any, vectors: Embeddings, count: int) -> None:
    """Train on `count` evenly spaced vectors. What turns vectors (OPQ, PCA) learns first, from fewer, and the rest from
    turned vectors: the sample is in memory once, and at the smaller width.
    """
    import faiss

    turns: list[Any] = []
    if isinstance(index, faiss.IndexPreTransform):
        chain: Any = index.chain
        turns = [faiss.downcast_VectorTransform(chain.at(number)) for number in range(chain.size())]
    for number, turn in enumerate(turns):
        if not turn.is_trained:
            turn.train(_sample(vectors, min(count, TURN_VECTORS), turns[:number]))
    inner = faiss.downcast_index(index.index) if turns else index
    if not inner.is_trained:
        inner.train(_sample(vectors, count, turns))
    index.is_trained = True


def _sample(vectors: Embeddings, count: int, turns: list[Any]) -> Any:
    """`count` evenly spaced vectors after `turns`, taken block by block."""
    rows = np.linspace(0, vectors.rows - 1, count).astype(np.int64)
    sample = np.empty((count, turns[-1].d_out if turns else vectors.dim), dtype=np.float32)
    for start in range(0, count, ROWS_AT_ONCE):
        block = vectors.take(rows[start : start + ROWS_AT_ONCE])
        for turn in turns:
            block = turn.apply(block)
        sample[start : start + ROWS_AT_ONCE] = block
    return sample


def _refusal(settings: Settings, vectors: Embeddings, error: str) -> str:
    reason = error.strip().splitlines()[-1]
    few = re.search(
        r"Number of training points \((\d+)\) should be at least as large as number of clusters \((\d+)\)", error
    )
    if few:
        remedy = (
            f"it needs {few[2]} training vectors and got {few[1]}: set preset: exact for so few vectors, raise"
            " training_vectors, or name fewer lists"
        )
    else:
        remedy = "correct the factory string, or use a preset"
    return (
        f"factory {settings.factory!r} does not suit {vectors.rows} vectors of width {vectors.dim}: {reason}; {remedy}"
    )


def set_search(index: Any, settings: Settings) -> None:
    """Give an index its `nprobe` and `ef_search`."""
    import faiss

    space = faiss.ParameterSpace()
    try:
        if settings.nprobe is not None:
            space.set_index_parameter(index, "nprobe", settings.nprobe)
        if settings.ef_search is not None:
            name = "efSearch" if settings.nprobe is None else "quantizer_efSearch"
            space.set_index_parameter(index, name, settings.ef_search)
    except RuntimeError as error:
        given = f"nprobe={settings.nprobe}, ef_search={settings.ef_search}"
        raise RetrievalError(f"factory {settings.factory!r} cannot take {given}: leave them out") from error


def on_device(index: Any, device: str) -> Any:
    """The index on all GPUs if `device` is auto and faiss-gpu finds any and has code for its kind; else as it is."""
    import faiss

    if device == "cpu" or faiss.get_num_gpus() == 0:
        return index
    options: Any = faiss.GpuMultipleClonerOptions()
    options.useFloat16LookupTables = True  # 64-byte codes need it
    options.allowCpuCoarseQuantizer = True  # a graph over the lists stays on the CPU
    try:
        return faiss.index_cpu_to_all_gpus(index, co=options)
    except RuntimeError as error:
        logger.warning("searching on the CPU: FAISS cannot move this index to the GPU (%s)", str(error).strip())
        return index


def _prepare_training(index: Any, settings: Settings) -> None:
    """Leave out what costs minutes and changes no search, and let k-means run on all GPUs where there are any."""
    import faiss

    inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index
    if hasattr(inner, "do_polysemous_training"):
        # Numbers the centroids of PQ codes anew for a kind of search that is off: 2 s for each byte of the code.
        inner.do_polysemous_training = False
    if isinstance(inner, faiss.IndexIVFScalarQuantizer) and inner.sq.qtype == faiss.ScalarQuantizer.QT_fp16:
        inner.by_residual = False  # keeps the stored vectors bit by bit; differences to a centroid would be rounded
    if isinstance(inner, faiss.IndexIVF) and settings.device == "auto" and faiss.get_num_gpus() > 0:
        inner.clustering_index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(inner.d))
