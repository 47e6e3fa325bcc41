"""Entries of retrievals: named ways to get passages and to give them to a model."""

from pydantic import Field, model_validator

from retrotune.entries import Count, Entry, Name


class PassageLayout(Entry):
    """Where retrieved passages go, for one model family."""

    num_contexts: Count = Field(0, description="best passages placed in the decoder prompt")
    num_neighbors: Count = Field(0, description="passages given to the RETRO encoder")
    reuse_contexts: bool = Field(False, description="neighbors start again from rank 1 instead of after the contexts")

    @property
    def needed(self) -> int:
        """Passages per question that this layout uses."""
        return (
            max(self.num_contexts, self.num_neighbors)
            if self.reuse_contexts
            else self.num_contexts + self.num_neighbors
        )


class RetrievalEntry(Entry):
    """A named way to get and give passages."""

    retriever: Name | None = Field(None, description="entry of `retrievers`; null: no retrieval")
    index: Name | None = Field(None, description="entry of `indexes` (dense retrievers)")
    corpus: Name | None = Field(None, description="entry of `corpora` for open-domain questions and for pretraining")
    chunking: Name | None = Field(None, description="entry of `chunkings`")
    top_k: Count = Field(5, description="passages kept per question")
    continuation: bool = Field(
        False, description="give each passage together with the next one of its document, as RETRO does"
    )
    gpt: PassageLayout = Field(default_factory=PassageLayout, description="where GPT gets them")
    retro: PassageLayout = Field(default_factory=PassageLayout, description="where RETRO gets them")

    @model_validator(mode="after")
    def _enough(self) -> "RetrievalEntry":
        if self.gpt.num_neighbors:
            raise ValueError("gpt.num_neighbors must be 0: GPT has no neighbor encoder")
        for family, passages in (("gpt", self.gpt), ("retro", self.retro)):
            if passages.needed > self.top_k:
                raise ValueError(f"{family} uses {passages.needed} passages but top_k is {self.top_k}: raise top_k")
        if self.retriever is not None and self.chunking is None:
            raise ValueError("a retrieval with a retriever needs `chunking`")
        if self.retriever is None and self.top_k:
            raise ValueError("a retrieval without a retriever needs top_k: 0")
        return self

    def layout(self, family: str) -> PassageLayout:
        """The layout of one family."""
        return self.gpt if family == "gpt" else self.retro
