"""Entries of FAISS indexes."""

from pydantic import Field

from retrotune.config.base import Entry, PositiveInt


class IndexEntry(Entry):
    """A FAISS index."""

    factory: str = Field("Flat", description="FAISS factory string")
    nprobe: PositiveInt | None = Field(None, description="IVF lists searched per query")
