"""Entries of retrievers: what turns a question into passages."""

from typing import Any, Literal

from pydantic import Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from retrotune.entries import Entry, Name, PlaceOrName, PositiveInt, Seed, Share

PRESETS: dict[str, dict[str, Any]] = {
    # arXiv 2302.07452: a pair of encoders, first token, dot product; titles stand before the tokenizer's separator
    "dragon-plus": {
        "query_model": "facebook/dragon-plus-query-encoder",
        "passage_model": "facebook/dragon-plus-context-encoder",
        "pooling": "cls",
        "normalize": False,
        "query_prefix": "",
        "passage_prefix": "",
        "title_separator": "sep_token",
        "max_length": 512,
    },
    # arXiv 2112.09118: without labels; query_model: facebook/contriever-msmarco is the one tuned on MS MARCO
    "contriever": {
        "query_model": "facebook/contriever",
        "pooling": "mean",
        "normalize": False,
        "query_prefix": "",
        "passage_prefix": "",
        "title_separator": "blank",
        "max_length": 512,
    },
    # arXiv 2212.03533
    "e5": {
        "query_model": "intfloat/e5-base-v2",
        "pooling": "mean",
        "normalize": True,
        "query_prefix": "query: ",
        "passage_prefix": "passage: ",
        "title_separator": "blank",
        "max_length": 512,
    },
    # arXiv 2309.07597: only questions carry the instruction
    "bge": {
        "query_model": "BAAI/bge-base-en-v1.5",
        "pooling": "cls",
        "normalize": True,
        "query_prefix": "Represent this sentence for searching relevant passages: ",
        "passage_prefix": "",
        "title_separator": "blank",
        "max_length": 512,
    },
    # sentence-transformers' model card: trained on up to 128 word pieces, cuts texts at 256
    "minilm": {
        "query_model": "sentence-transformers/all-MiniLM-L6-v2",
        "pooling": "mean",
        "normalize": True,
        "query_prefix": "",
        "passage_prefix": "",
        "title_separator": "blank",
        "max_length": 256,
    },
}
"""Published encoders, as their authors use them."""

DEFAULT_PRESET = "dragon-plus"
KEYS_OF_KIND: dict[str, frozenset[str]] = {
    "bm25": frozenset(),
    "gold": frozenset(),
    "random": frozenset({"seed"}),
    "degraded": frozenset({"base", "share", "seed"}),
}
"""Keys of the kinds that are no encoders, beside `kind`; all other keys belong to dense retrievers."""


class RetrieverEntry(Entry):
    """An encoder pair (`dense`), BM25, or a control: `gold`, `random`, `degraded`. Each kind has keys of its own."""

    kind: Literal["dense", "bm25", "gold", "random", "degraded"] = Field(
        "dense",
        description="vectors and FAISS; BM25 term weights; passages that hold the answer; any passages; or another "
        "retriever's neighbors, a share of them replaced by random ones",
    )
    preset: Literal["dragon-plus", "contriever", "e5", "bge", "minilm"] | None = Field(
        None,
        description="dense: a published encoder, which fills the keys not given; without `query_model`: dragon-plus",
    )
    query_model: PlaceOrName | None = Field(
        None, description="dense: folder, hub name, or `package:NAME/FOLDER` of a Python package"
    )
    passage_model: PlaceOrName | None = Field(None, description="dense: as `query_model`; null: the same model")
    pooling: Literal["cls", "mean"] | None = Field(
        None, description="dense: which token vectors make the text's vector; null: as the folder declares, else cls"
    )
    normalize: bool | None = Field(
        None,
        description="dense: vectors of length 1, so that their dot product is the cosine; false: the dot product as it "
        "is; null: as the folder declares, else false",
    )
    query_prefix: str | None = Field(
        None, description="dense: put before each question; null: as the folder declares, else nothing"
    )
    passage_prefix: str | None = Field(
        None, description="dense: put before each passage; null: as the folder declares, else nothing"
    )
    title_separator: Literal["blank", "sep_token"] | None = Field(
        None,
        description="dense: between a passage's title and text: a blank, or the tokenizer's separator; null: blank",
    )
    max_length: PositiveInt | None = Field(
        None, description="dense: tokens per text at most; null: as the folder declares, else 512"
    )
    batch_tokens: PositiveInt | None = Field(
        None,
        description="dense: tokens per forward pass at most, padding included; null: 2,048 on a CPU, 65,536 on a GPU",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "float32",
        description="dense: float32: the same vectors on every machine but for the last digits; bfloat16: faster where "
        "processor or GPU multiply it, vectors within 0.001 of cosine 1; auto: bfloat16 where that holds",
    )
    trust_remote_code: bool = Field(
        False,
        description="dense: run Python code that lies in the model's folder (`auto_map`); read it first: it can do "
        "what you can",
    )
    block_passages: PositiveInt = Field(50_000, description="dense: passages per resumable block")
    base: Name | SkipJsonSchema["RetrieverEntry"] | None = Field(
        None, description="degraded: entry of `retrievers` whose neighbors are replaced"
    )
    share: Share = Field(
        0.5, description="degraded: share of the neighbors that is replaced, on average over questions"
    )
    seed: Seed = Field(0, description="random, degraded: seed of the random passages")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or raw.get("kind", "dense") != "dense":
            return raw
        given = {key: value for key, value in raw.items() if value is not None}
        if "preset" not in given and "query_model" not in given:
            given["preset"] = DEFAULT_PRESET
        values = PRESETS.get(given["preset"], {}) if isinstance(given.get("preset"), str) else {}
        if "passage_model" in values and ("query_model" in given) != ("passage_model" in given):
            raise ValueError(
                f"preset {given['preset']} has two models that belong together: give `query_model` and "
                "`passage_model`, or neither"
            )
        return {**values, **given}

    @model_validator(mode="after")
    def _own_keys_only(self) -> "RetrieverEntry":
        foreign = sorted(self.model_fields_set - self._keys())
        if foreign:
            raise ValueError(
                f"a {self.kind} retriever has no {', '.join(foreign)}; its keys: {', '.join(sorted(self._keys()))}"
            )
        if self.kind == "degraded" and self.base is None:
            raise ValueError("a degraded retriever needs `base`, the retriever whose neighbors are replaced")
        return self

    def given(self) -> dict[str, Any]:
        """As of every entry; a preset's keys too where they have defaults, which it would fill again."""
        return {**super().given(), **{key: getattr(self, key) for key in PRESETS.get(self.preset or "", {})}}

    def for_passages(self) -> "RetrieverEntry":
        """The encoder of passages alone, as the only model, without what concerns questions."""
        model = self.passage_model or self.query_model
        return self.model_copy(
            update={"preset": None, "query_model": model, "passage_model": None, "query_prefix": None}
        )

    def for_search(self) -> "RetrieverEntry":
        """What a search works with: the preset's keys without its name, and no blocks of passages."""
        if self.kind != "dense":
            return self
        default = type(self).model_fields["block_passages"].default
        return self.model_copy(update={"preset": None, "block_passages": default})

    @property
    def base_name(self) -> str | None:
        """`base` as a study names it."""
        return self.base if isinstance(self.base, str) else None

    @property
    def searching(self) -> "RetrieverEntry":
        """The entry that searches: what a degraded one starts from, else itself."""
        return self.starts_from if self.kind == "degraded" else self

    @property
    def starts_from(self) -> "RetrieverEntry":
        """The entry that a degraded one starts from, once `Config.searches_with` has put it there."""
        assert isinstance(self.base, RetrieverEntry), f"base={self.base!r} is a name only"
        return self.base

    def _keys(self) -> frozenset[str]:
        """Keys that say something for this kind."""
        others = frozenset[str]().union(*KEYS_OF_KIND.values())
        return KEYS_OF_KIND.get(self.kind, frozenset(type(self).model_fields) - others) | {"kind"}
