"""Bytes, memory and work of FAISS indexes by factory string: every formula of the plan stands here.

N vectors of width d; d' is the width after a transform (OPQ64_128: 128), L the lists of an IVF, t the training vectors.

Bytes of a file, per vector:

    Flat                 4 d'
    SQ8, SQ6, SQ4, fp16  d', 3/4 d', d'/2, 2 d'
    PQm, PQmx4fs         m, m/2                        (PQmxb: m b / 8, rounded up)
    IVF…                 8 more for the id
    HNSWM                4 (2 M + M / (M - 1)) for links in the lowest layer and, on average, above it,
                         12 for the level (4) and the place of the links (8)

and once: the transform (OPQ, PCA) 4 d d'; the centroids of the lists 4 L d', their graph with `_HNSWM`, 8 L for their
sizes; the code book of PQ with b bits 4 2^b d'. An exact index (Flat) has no file: its search reads the float16 vectors
of the embeddings, 2 d each.

Private memory while an index is built (mapped files, which the system can drop, do not count) is the process itself and
the larger of

    training             4 t d for the sample and 4 t d' after a transform; while it learns, OPQ keeps at most 65,536
                         vectors three times as they are and twice transformed, PQ keeps them and their residuals
    filling              the shard's bytes; IVF lists take `LIST_SLACK` times theirs; an array for
                         all vectors (HNSW's storage) doubles when full, the old one and the new one held while copying

An index that cannot be searched in its mapped file (HNSW) is read into memory to be searched.

Work is counted in multiply-adds times two for matrix products, in comparisons of a sub-vector with a centroid for PQ,
and in bytes read for scans; `rates` says how fast each is. k-means of the lists takes 10 rounds over at most 256 L
vectors; PQ takes 25 rounds over 65,536; OPQ takes 50 rounds of matrix products over as many, with a PQ of 4 rounds
(the first with 40) in each.
"""

import math
import re
from dataclasses import dataclass

from retrotune.errors import ConfigError

PROCESS_BYTES = 55_000_000
"""A Python process with numpy, pyarrow and FAISS, measured."""
BLOCK_VECTORS = 8192
MEASURED_QUERIES = 200
"""Queries whose scores with a block are held while recall is measured: scores, a copy of them, a mask."""
LIST_SLACK = 1.35
"""Memory of IVF lists over their bytes, measured: each doubles when full, and what it leaves is not all used again."""
SUBSAMPLE = 65_536
"""Training vectors that OPQ and PQ use at most: 256 for each of 256 centroids."""
HNSW_EF_CONSTRUCTION = 40
HNSW_EF_COARSE = 16
"""Candidates kept while a vector's list is looked up in a graph of centroids."""

_TRANSFORM = re.compile(r"(?P<kind>OPQ|PCAR|PCAW|PCA|ITQ)(?P<first>\d+)(?:_(?P<second>\d+))?")
_LISTS = re.compile(r"IVF(?P<lists>\d+)(?P<unit>[kM]?)(?:_HNSW(?P<links>\d+))?(?:\([^)]*\))?")
_CODE = re.compile(
    r"(?P<flat>Flat)|(?P<scalar>SQ(?:8|6|4|fp16|bf16))|PQ(?P<parts>\d+)(?:x(?P<bits>\d+))?(?P<fast>fs)?r?(?:\(.*\))?"
)
_GRAPH = re.compile(r"HNSW(?P<links>\d*)(?:[,_]?(?P<code>.+))?")
SCALAR_BITS = {"SQ8": 8, "SQ6": 6, "SQ4": 4, "SQfp16": 16, "SQbf16": 16}


@dataclass(frozen=True)
class Factory:
    """What a FAISS factory string says, for vectors of width `dim`; `links` are HNSW's, `lists` IVF's (0: none)."""

    text: str
    dim: int
    inner_dim: int
    opq_parts: int
    lists: int
    coarse_links: int
    links: int
    code_bytes: int
    pq_parts: int
    pq_bits: int

    @property
    def exact(self) -> bool:
        """Whether every vector is compared, without an index file."""
        return self.text == "Flat"

    @property
    def transformed(self) -> bool:
        """Whether vectors are turned before they are stored."""
        return self.opq_parts > 0 or self.inner_dim != self.dim


def parse_factory(text: str, dim: int) -> Factory:
    """Read a factory string; `ConfigError` for a part whose cost is not known here."""
    inner, opq, lists, coarse, links, code, parts, bits = dim, 0, 0, 0, 0, 4 * dim, 0, 8
    tokens = re.split(r",(?![^(]*\))", text)
    for place, token in enumerate(tokens):
        if match := _TRANSFORM.fullmatch(token):
            first, second = int(match["first"]), match["second"]
            opq = first if match["kind"] == "OPQ" else 0
            inner = int(second) if second else (first if match["kind"] != "OPQ" else dim)
            code = 4 * inner
        elif match := _LISTS.fullmatch(token):
            lists = int(match["lists"]) * {"": 1, "k": 1 << 10, "M": 1 << 20}[match["unit"]]
            coarse = int(match["links"] or 0)
        elif match := _GRAPH.fullmatch(",".join(tokens[place:])):
            links = int(match["links"] or 32)
            if match["code"]:
                code, parts, bits = _code(match["code"], inner, text)
            break
        elif token not in ("L2norm", "IDMap"):
            code, parts, bits = _code(token, inner, text)
    return Factory(text, dim, inner, opq, lists, coarse, links, code, parts, bits)


def _code(token: str, dim: int, text: str) -> tuple[int, int, int]:
    """(bytes, PQ's parts, PQ's bits) of a stored vector."""
    match = _CODE.fullmatch(token)
    if match is None:
        raise ConfigError(
            f"factory {text!r}: the cost of {token!r} is not known; known are IVF, HNSW, Flat, SQ, PQ, OPQ"
        )
    if match["flat"]:
        return 4 * dim, 0, 8
    if match["scalar"]:
        return math.ceil(dim * SCALAR_BITS[match["scalar"]] / 8), 0, 8
    parts, bits = int(match["parts"]), int(match["bits"] or 8)
    return math.ceil(parts * bits / 8), parts, bits


def graph_bytes(links: int) -> float:
    """Bytes per vector of an HNSW graph, on average."""
    return 4 * (2 * links + links / (links - 1)) + 12


def bytes_per_vector(factory: Factory) -> float:
    """Bytes in the index file for each vector."""
    return factory.code_bytes + 8 * (factory.lists > 0) + (graph_bytes(factory.links) if factory.links else 0)


def fixed_bytes(factory: Factory) -> float:
    """Bytes of an index file without vectors."""
    inner = factory.inner_dim
    transform = 4 * factory.dim * inner if factory.transformed else 0
    coarse = factory.lists * (4 * inner + 8 + (graph_bytes(factory.coarse_links) if factory.coarse_links else 0))
    book = 4 * 2**factory.pq_bits * inner if factory.pq_parts else 0
    return transform + coarse + book


def index_bytes(factory: Factory, vectors: int, num_shards: int = 1) -> float:
    """Bytes of all shards of an index on disk, with the trained, empty index that they start from; 0 if exact."""
    if factory.exact:
        return 0
    trained = fixed_bytes(factory) if learns(factory) else 0
    return vectors * bytes_per_vector(factory) + num_shards * fixed_bytes(factory) + trained


def learns(factory: Factory) -> bool:
    """Whether the index is trained before vectors are added."""
    return bool(factory.lists or factory.pq_parts or factory.transformed)


def build_peak(factory: Factory, vectors: int, training_vectors: int, num_shards: int = 1) -> float:
    """Private memory of building, in bytes."""
    block = BLOCK_VECTORS * (6 * factory.dim + 4 * factory.inner_dim * factory.transformed + 9 * MEASURED_QUERIES)
    if factory.exact:
        return PROCESS_BYTES + block
    shard = math.ceil(vectors / num_shards)
    if factory.lists:
        filling = LIST_SLACK * shard * bytes_per_vector(factory)
    else:
        filling = _doubled(shard) * factory.code_bytes
        if factory.links:
            filling += shard * graph_bytes(factory.links)
    return (
        PROCESS_BYTES + fixed_bytes(factory) + max(filling + block, _training_peak(factory, vectors, training_vectors))
    )


def _doubled(vectors: int) -> int:
    """Vectors that an array holds at most at a time while it grows to `vectors` by doubling, the old one included."""
    capacity = BLOCK_VECTORS
    while 2 * capacity < vectors:
        capacity *= 2
    return max(vectors, 2 * capacity) if vectors > BLOCK_VECTORS else vectors


def _training_peak(factory: Factory, vectors: int, training_vectors: int) -> float:
    if not learns(factory):
        return 0
    count = min(vectors, training_vectors)
    some = min(count, SUBSAMPLE)
    inner = factory.inner_dim
    sample = 4 * count * factory.dim
    after = 4 * count * inner if factory.transformed else 0
    opq = 4 * some * (3 * factory.dim + 2 * inner) if factory.opq_parts else 0
    lists = 4 * min(count, 256 * factory.lists) * inner if count > 256 * factory.lists > 0 else 0
    book = 8 * some * inner if factory.pq_parts else 0
    return sample + max(opq, after + max(lists, book))


def training_work(factory: Factory, training_vectors: int) -> tuple[float, float]:
    """(operations of matrix products, comparisons of sub-vectors) of training."""
    some, inner = min(training_vectors, SUBSAMPLE), factory.inner_dim
    products = 2.0 * 10 * min(training_vectors, 256 * factory.lists) * factory.lists * inner
    comparisons = 0.0
    if factory.pq_parts:
        comparisons += 25 * some * 2**factory.pq_bits * factory.pq_parts
    if factory.opq_parts:
        products += 2.0 * 50 * some * inner * (3 * factory.dim)
        comparisons += (40 + 49 * 4 + 50) * some * 256 * factory.opq_parts
    return products, comparisons


def adding_work(factory: Factory, vectors: int) -> tuple[float, float, float]:
    """(operations of matrix products, comparisons of sub-vectors, steps in a graph) of adding all vectors.

    A step compares a vector with one of its neighbors in a graph.
    """
    inner = factory.inner_dim
    products = 2.0 * factory.dim * inner * factory.transformed
    steps = 0.0
    if factory.lists and not factory.coarse_links:
        products += 2.0 * factory.lists * inner
    elif factory.lists:
        steps += HNSW_EF_COARSE * factory.coarse_links
    if factory.links:
        steps += graph_steps(HNSW_EF_CONSTRUCTION, factory.links, vectors)
    comparisons = 2.0**factory.pq_bits * factory.pq_parts
    return vectors * products, vectors * comparisons, vectors * steps


def graph_steps(kept: int, links: int, vectors: float) -> float:
    """Comparisons of a walk through a graph that keeps `kept` candidates: they grow with the graph's logarithm."""
    return kept * links * max(1.0, math.log(max(2.0, vectors)) / math.log(20_000))


def search_work(
    factory: Factory, vectors: int, nprobe: int | None, ef_search: int | None
) -> tuple[float, float, float, float]:
    """(operations of matrix products, bytes of vectors and bytes of codes scanned, steps in a graph) of one query."""
    inner = factory.inner_dim
    if factory.exact:
        return 2.0 * vectors * factory.dim, 0, 0, 0
    products, steps = 2.0 * factory.dim * inner * factory.transformed, 0.0
    if factory.links:
        return products, 0, 0, graph_steps(ef_search or 64, factory.links, vectors)
    share = 1.0
    if factory.lists:
        share = min(1.0, (nprobe or 1) / factory.lists)
        products += 0 if factory.coarse_links else 2.0 * factory.lists * inner
        steps = (
            graph_steps(max(ef_search or 64, nprobe or 1), factory.coarse_links, factory.lists)
            if factory.coarse_links
            else 0
        )
    scanned = share * vectors * factory.code_bytes
    return products, 0 if factory.pq_parts else scanned, scanned if factory.pq_parts else 0, steps


def search_memory(factory: Factory, vectors: int, num_shards: int = 1) -> float:
    """Private memory of a search beside the process: what cannot be searched in its file, and a block's scores."""
    if factory.exact:
        return BLOCK_VECTORS * (4 * factory.dim + 12 * 1024)
    if factory.lists:
        return num_shards * fixed_bytes(factory)
    return index_bytes(factory, vectors, num_shards)
