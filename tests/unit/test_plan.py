"""What the plan foretells: bytes of FAISS indexes, growth, unknown parts, a study's rows."""

import faiss
import numpy as np
import pytest

from retrotune.plan.formulas import bytes_per_vector, fixed_bytes, parse_factory

DIM = 32


def written_bytes(factory: str, vectors: int) -> int:
    """Bytes of the index that FAISS makes of so many vectors."""
    index = faiss.index_factory(DIM, factory, faiss.METRIC_INNER_PRODUCT)
    drawn = np.random.default_rng(0).normal(size=(vectors, DIM)).astype(np.float32)
    index.train(drawn[:1000])
    index.add(drawn)
    return len(faiss.serialize_index(index))


@pytest.mark.parametrize(
    "factory",
    [
        "IVF16,Flat",
        "IVF16,SQ8",
        "IVF16,SQfp16",
        "IVF16,PQ8x4",
        "IVF16_HNSW8,Flat",
        "OPQ4_16,IVF16_HNSW32,PQ4x4",
        "PCA16,IVF4,Flat",
        "PQ16x4",
        "SQ4",
        "HNSW32",
        "HNSW16,Flat",
        "HNSW8_SQ8",
    ],
)
def test_bytes_are_those_of_the_file_that_faiss_writes(factory: str) -> None:
    parsed = parse_factory(factory, DIM)
    few, many = written_bytes(factory, 2000), written_bytes(factory, 6000)
    assert (many - few) / 4000 == pytest.approx(bytes_per_vector(parsed), rel=0.01)
    assert many == pytest.approx(6000 * bytes_per_vector(parsed) + fixed_bytes(parsed), rel=0.02)
