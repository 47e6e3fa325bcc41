"""Entries of retrievers: what turns a question into passages."""

from typing import Literal

from pydantic import Field, model_validator

from retrotune.config.base import Entry, PositiveInt


class RetrieverEntry(Entry):
    """An encoder pair, or BM25."""

    kind: Literal["dense", "bm25"] = Field("dense", description="vectors and FAISS, or BM25 term weights")
    query_model: str | None = Field(None, description="folder, hub name, or `package:NAME/FOLDER` of a Python package")
    passage_model: str | None = Field(None, description="as `query_model`; null: the same model")
    pooling: Literal["cls", "mean"] = Field("cls", description="which token vectors make the text's vector")
    normalize: bool = Field(False, description="scale vectors to length 1 (cosine); otherwise the dot product")
    max_length: PositiveInt = Field(512, description="tokens per text at most")
    batch_size: PositiveInt = Field(64, description="texts per forward pass")
    block_passages: PositiveInt = Field(50_000, description="passages per resumable block")

    @model_validator(mode="after")
    def _models_named(self) -> "RetrieverEntry":
        if self.kind == "dense" and self.query_model is None:
            raise ValueError("a dense retriever needs `query_model`")
        return self
