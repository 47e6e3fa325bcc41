"""Entries of data: the demo's world, question sets, text collections, and ways to cut passages."""

from typing import Any, Literal

from pydantic import Field, model_validator

from retrotune.data.datasets import SPECS, DatasetSpec
from retrotune.entries import Count, Entry, Name, Place, PositiveInt, Seed
from retrotune.study.config.base import LayoutName, Reader


class World(Entry):
    """The embedded demo world, written by a seeded generator in the official layout of each dataset."""

    seed: Seed = Field(1, description="seed of names, facts and phrasings")
    pretraining_pages: PositiveInt = Field(8000, description="pages (and quizzes about them) to pretrain on")
    train_documents: PositiveInt = Field(60, description="documents per dataset to fine-tune on")
    test_documents: PositiveInt = Field(30, description="documents per dataset to test on")
    questions_per_document: PositiveInt = Field(5, description="questions asked about each document")


class DatasetEntry(Entry):
    """A question set, read from its official files."""

    reader: Reader = Field(description="which dataset's files, prompts and metric")
    layout: LayoutName = Field("official", description="file layout below `path`")
    path: Place = Field(description="folder or file, relative to `data_root`")
    prompt: Literal["base", "instruct"] | None = Field(None, description="prompts; null: as the model's `instruct`")
    max_train: Count | None = Field(None, description="use the first N training questions; null: all")
    max_test: PositiveInt | None = Field(None, description="use the first N test questions; null: all")
    max_new_tokens: PositiveInt | None = Field(None, description="generation limit; null: the dataset's default")
    skip_bad_records: bool = Field(False, description="count bad records in the manifest instead of stopping")

    @model_validator(mode="after")
    def _known_layout(self) -> "DatasetEntry":
        if self.layout not in self.record.layouts:
            known = " and ".join(self.record.layouts)
            raise ValueError(f"{self.reader} has no layout {self.layout!r}; it has {known}")
        return self

    @property
    def record(self) -> DatasetSpec:
        """What is known of the dataset."""
        return SPECS[self.reader]

    @property
    def download(self) -> str:
        """Name of the official source of these files."""
        return self.record.source(self.layout)


class CorpusEntry(Entry):
    """A text collection to retrieve from or to pretrain on."""

    reader: Literal["dpr_passages", "text"] = Field(description="`psgs_w100.tsv(.gz)`, or plain text files")
    path: Place = Field(description="file or folder (text: or glob), relative to `data_root`")
    documents: Literal["file", "paragraph", "wikitext"] = Field(
        "file", description="text only: a document is a file, a paragraph between blank lines, or a WikiText article"
    )
    max_documents: PositiveInt | None = Field(None, description="use the first N documents; null: all")
    skip_bad_records: bool = Field(False, description="count bad records in the manifest instead of stopping")

    @property
    def download(self) -> str | None:
        """Name of the official source of these files; plain text has none."""
        return "wikipedia" if self.reader == "dpr_passages" else None


class ChunkingEntry(Entry):
    """How documents are cut into passages: whole sentences up to N words or, as for RETRO's database, N tokens."""

    passage_words: PositiveInt | None = Field(
        100, description="words per passage at most, cut at sentence boundaries; null with `passage_tokens`"
    )
    passage_tokens: PositiveInt | None = Field(
        None, description="tokens per passage, cut where pretraining cuts chunks of that length (RETRO: 64)"
    )
    tokenizer: Name | None = Field(None, description="entry of `tokenizers` that cuts `passage_tokens`")

    @model_validator(mode="before")
    @classmethod
    def _words_unless_tokens(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("passage_tokens") is not None:
            return {"passage_words": None, **values}
        return values

    @model_validator(mode="after")
    def _one_unit(self) -> "ChunkingEntry":
        if (self.passage_words is None) == (self.passage_tokens is None):
            raise ValueError("set either passage_words or passage_tokens")
        if (self.passage_tokens is None) != (self.tokenizer is None):
            raise ValueError("passage_tokens and tokenizer go together: set both, or passage_words only")
        return self
