"""Entries of FAISS indexes."""

import re
import string
from typing import Literal

from pydantic import Field, model_validator

from retrotune.entries import Count, Entry, PositiveInt

PRESETS: dict[str, str] = {
    "exact": "Flat",
    "ivf-flat": "IVF{lists},SQfp16",
    "ivf-pq": "OPQ64_128,IVF{lists}_HNSW32,PQ64",
    "hnsw": "HNSW32_SQfp16",
}
"""Whole vectors are float16, as the embeddings are: exact scores, half the disk, and lists are read twice as fast.
`ivf-pq` is the family of RETRO's pretraining database (arXiv 2310.07713: `OPQ64_128,IVF4194304_HNSW32,PQ64`)."""
RERANKED = 500


class IndexEntry(Entry):
    """A FAISS index by inner product: a preset, or a factory string of one's own."""

    preset: Literal["exact", "ivf-flat", "ivf-pq", "hnsw"] | None = Field(
        None,
        description="`exact` (the default): every vector is compared, block by block, without an index file;"
        " `ivf-flat`: lists of whole vectors; `ivf-pq`: lists of 64-byte codes, for what exceeds memory;"
        " `hnsw`: a graph",
    )
    factory: str | None = Field(
        None,
        description="FAISS factory string instead of a preset; `{lists}` stands for the power of two nearest to"
        " 4 sqrt(vectors of a shard), at most a 39th of `training_vectors`; `Flat` is the preset `exact`",
    )
    training_vectors: PositiveInt = Field(
        200_000, description="evenly spaced vectors that lists and codes are learned from; all if there are fewer"
    )
    nprobe: PositiveInt | None = Field(
        None, description="lists searched per query (IVF); null: a 64th of the lists, at least 8"
    )
    ef_search: PositiveInt | None = Field(
        None,
        description="candidates kept while walking a graph (HNSW); null: 64, for IVF with HNSW at least 2 `nprobe`",
    )
    shard_vectors: PositiveInt | None = Field(
        None, description="vectors per index at most; shards are built and resumed singly; null: one index"
    )
    rerank: Count | None = Field(
        None,
        description="candidates per query whose score is computed again from the stored float16 vectors; 0: none;"
        f" null: {RERANKED} for `ivf-pq`, else 0",
    )
    device: Literal["auto", "cpu"] = Field("auto", description="auto: all GPUs where faiss-gpu is installed, else CPU")

    @property
    def template(self) -> str:
        """The factory string before `{lists}` is filled in."""
        return self.factory if self.factory is not None else PRESETS[self.preset or "exact"]

    @property
    def exact(self) -> bool:
        """Whether every vector is compared."""
        return self.template == "Flat"

    @property
    def candidates(self) -> int:
        """Candidates per query that are scored again; 0: none."""
        return self.rerank if self.rerank is not None else RERANKED * (self.preset == "ivf-pq")

    @model_validator(mode="after")
    def _fitting(self) -> "IndexEntry":
        if self.preset is not None and self.factory is not None:
            raise ValueError(f"preset {self.preset!r} and factory {self.factory!r} exclude each other: remove one")
        try:
            fields = {name for _, name, _, _ in string.Formatter().parse(self.template) if name is not None}
        except ValueError as error:
            raise ValueError(f"factory {self.template!r}: {error}; only {{lists}} is filled in") from error
        if fields - {"lists"}:
            raise ValueError(
                f"factory {self.template!r}: only {{lists}} is filled in, not {sorted(fields - {'lists'})}"
            )
        if self.exact:
            unused = [name for name in ("nprobe", "ef_search", "shard_vectors", "rerank") if getattr(self, name)]
            if unused:
                raise ValueError(f"an exact search has no {', '.join(unused)}: remove it, or set preset: ivf-flat")
        lists = re.search(r"IVF(\d+|\{lists\})", self.template)
        if self.nprobe is not None and lists is None:
            raise ValueError(f"nprobe={self.nprobe}, but {self.template!r} has no lists (IVF): remove nprobe")
        if self.nprobe is not None and lists is not None and lists[1].isdigit() and self.nprobe > int(lists[1]):
            raise ValueError(f"nprobe={self.nprobe} exceeds the {lists[1]} lists of {self.template!r}: lower it")
        if self.ef_search is not None and "HNSW" not in self.template:
            raise ValueError(f"ef_search={self.ef_search}, but {self.template!r} has no graph (HNSW): remove ef_search")
        return self
