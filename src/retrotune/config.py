"""The configuration: one typed schema, unknown keys forbidden, every reference between entries checked.

A study is a set of named entries (datasets, corpora, retrievers, retrievals, models, methods) and a grid over their
names. Descriptions of the fields are the documentation: `config/schema.json` and the table in `config/README.md`
are generated from them (`make docs`).
"""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from retrotune.errors import ConfigError

Family = Literal["gpt", "retro"]
Reader = Literal["nq", "triviaqa", "narrativeqa", "qasper", "quality", "qmsum"]
OPEN_DOMAIN: frozenset[str] = frozenset({"nq", "triviaqa"})
"""Readers whose questions retrieve from a corpus; all others retrieve from the question's own document."""
PAPER_SIZES = ("xs", "s", "m", "l", "xxl")

PositiveInt = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Entry(BaseModel):
    """Base of all configuration entries: immutable, unknown keys forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class World(Entry):
    """The embedded demo world, written by a seeded generator in the official layout of each dataset."""

    seed: int = Field(1, description="seed of names, facts and phrasings")
    pretraining_pages: PositiveInt = Field(8000, description="pages (and quizzes about them) to pretrain on")
    train_documents: PositiveInt = Field(60, description="documents per dataset to fine-tune on")
    test_documents: PositiveInt = Field(30, description="documents per dataset to test on")
    questions_per_document: PositiveInt = Field(5, description="questions asked about each document")


class DatasetEntry(Entry):
    """A question set, read from its official files."""

    reader: Reader = Field(description="which dataset's files, prompts and metric")
    layout: Literal["official", "scrolls", "dpr"] = Field("official", description="file layout below `path`")
    path: str = Field(description="folder or file, relative to `data_root`")
    prompt: Literal["base", "instruct"] | None = Field(None, description="prompts; null: as the model's `instruct`")
    max_train: Count | None = Field(None, description="use the first N training questions; null: all")
    max_test: PositiveInt | None = Field(None, description="use the first N test questions; null: all")
    max_new_tokens: PositiveInt | None = Field(None, description="generation limit; null: the dataset's default")
    skip_bad_records: bool = Field(False, description="count bad records in the manifest instead of stopping")

    @model_validator(mode="after")
    def _known_layout(self) -> "DatasetEntry":
        other = "dpr" if self.reader in OPEN_DOMAIN else "scrolls"
        if self.layout not in ("official", other):
            raise ValueError(f"{self.reader} has no layout {self.layout!r}; it has official and {other}")
        return self

    @property
    def download(self) -> str:
        """Name of the official source of these files."""
        if self.layout == "scrolls":
            return f"scrolls-{self.reader}"
        return self.reader if self.layout == "official" else f"{self.reader}-{self.layout}"


class CorpusEntry(Entry):
    """A text collection to retrieve from or to pretrain on."""

    reader: Literal["dpr_passages", "text"] = Field(description="`psgs_w100.tsv(.gz)`, or plain text files")
    path: str = Field(description="file or folder (text: or glob), relative to `data_root`")
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
    """How documents are cut into passages."""

    passage_words: PositiveInt = Field(100, description="words per passage at most, cut at sentence boundaries")


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


class IndexEntry(Entry):
    """A FAISS index."""

    factory: str = Field("Flat", description="FAISS factory string")
    nprobe: PositiveInt | None = Field(None, description="IVF lists searched per query")


class Passages(Entry):
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
    gpt: Passages = Field(default_factory=Passages, description="where GPT gets them")
    retro: Passages = Field(default_factory=Passages, description="where RETRO gets them")

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

    def passages(self, family: str) -> Passages:
        """The layout of one family."""
        return self.gpt if family == "gpt" else self.retro


class TokenizerEntry(Entry):
    """A byte-level BPE tokenizer trained on corpora of this study."""

    corpora: tuple[Name, ...] = Field(min_length=1, description="entries of `corpora` to train on")
    vocab_size: PositiveInt = Field(8192, description="pieces, special tokens included")


class SizeEntry(Entry):
    """A model shape beside the paper's xs s m l xxl; departures from NVIDIA's architecture stand beside the results."""

    num_layers: PositiveInt = Field(description="decoder layers")
    hidden_size: PositiveInt = Field(description="width")
    num_heads: PositiveInt = Field(description="attention heads")
    ffn_size: PositiveInt = Field(description="SwiGLU hidden width")
    max_length: PositiveInt = Field(4096, description="window in tokens")
    chunk_length: PositiveInt = Field(64, description="tokens per chunk (RETRO)")
    retrieved_length: PositiveInt = Field(128, description="tokens per neighbor (RETRO)")
    cross_attention_layers: tuple[Count, ...] | None = Field(None, description="0-based; null: NVIDIA's rule")
    encoder_layers: PositiveInt = Field(2, description="layers of the neighbor encoder")
    encoder_attends_chunk: bool = Field(True, description="encoder attends to the chunk (NVIDIA's behavior)")
    key_shift: bool = Field(False, description="mix each key with the previous token's key; not in NVIDIA's models")
    tie_embeddings: bool = Field(False, description="one matrix for input and output embeddings")
    rotary_share: Share = Field(0.5, description="share of each head that is rotated")

    @model_validator(mode="after")
    def _whole_heads(self) -> "SizeEntry":
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size={self.hidden_size} is no multiple of num_heads={self.num_heads}")
        outside = [layer for layer in self.cross_attention_layers or () if layer >= self.num_layers]
        if outside:
            raise ValueError(f"cross_attention_layers {outside}: there are layers 0 to {self.num_layers - 1} only")
        return self

    @property
    def can_cross(self) -> bool:
        """Whether a RETRO of this size has a cross-attention layer."""
        return bool(self.cross_attention_layers) if self.cross_attention_layers is not None else self.num_layers >= 6


class Emphasis(Entry):
    """Weight of the loss by text position, for texts that hold questions and answers."""

    cue: str = Field("The answer is", description="text after this cue, up to the end of the line, has weight 1")
    other_weight: Share = Field(0.15, description="weight of all other tokens")


class PretrainingEntry(Entry):
    """How base models are trained from scratch in this study."""

    corpora: tuple[Name, ...] = Field(min_length=1, description="entries of `corpora` to train on")
    tokenizer: Name = Field(description="entry of `tokenizers`")
    retrieval: Name | None = Field(
        None, description="entry of `retrievals` that gives contexts and neighbors; null: none"
    )
    neighbors_per: Literal["document", "chunk"] = Field(
        "chunk", description="one neighbor set per document (short texts), or one per chunk (long texts)"
    )
    no_passage_share: Share = Field(0.0, description="share of sequences trained without any passage")
    sequence_length: PositiveInt = Field(512, description="tokens per sequence, contexts included")
    batch_size: PositiveInt = Field(16, description="sequences per step")
    steps: PositiveInt = Field(1000, description="optimizer updates")
    optimizer: Literal["adamw", "muon"] = Field("adamw", description="muon: Muon for matrices, AdamW for the rest")
    learning_rate: float = Field(3e-4, gt=0, description="peak rate (of matrices, with muon)")
    embedding_learning_rate: float | None = Field(None, gt=0, description="muon only: rate of everything else")
    weight_decay: float = Field(0.1, ge=0, description="decoupled weight decay")
    warmup_steps: Count = Field(50, description="linear warm-up, then cosine to a tenth")
    emphasis: Emphasis | None = Field(None, description="loss weights by position; null: all tokens alike")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="of matrix products")
    seed: int = Field(0, description="seed of first weights, order of sequences and left-out passages")


class Resources(Entry):
    """What one cell of a model asks from the cluster."""

    gpus: Count = Field(0, description="GPUs per cell")
    mem_mb: PositiveInt = Field(4000, description="memory per cell, MB")
    runtime: PositiveInt = Field(60, description="minutes per cell")


class Checkpoint(Entry):
    """A checkpoint to convert."""

    path: str = Field(description="folder of the checkpoint")
    tokenizer: str | None = Field(None, description="tokenizer file or folder where the checkpoint has none")


class ModelEntry(Entry):
    """A base model: a family, a size and exactly one source."""

    family: Family = Field(description="gpt or retro")
    size: Name = Field(description="xs s m l xxl, or an entry of `sizes`; for hub models a label for tables")
    pretraining: Name | None = Field(
        None, description="source: train from scratch as this entry of `pretrainings` says"
    )
    hub: str | None = Field(None, description="source: a model on the hub (any AutoModelForCausalLM; gpt only)")
    path: str | None = Field(None, description="source: a local folder in transformers layout")
    checkpoint: Checkpoint | None = Field(None, description="source: a checkpoint to convert")
    instruct: bool = Field(False, description="instruction-tuned: prompts use the instruct variant")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="of weights and matrix products")
    resources: Resources = Field(default_factory=Resources, description="per cell, on a cluster")

    @model_validator(mode="after")
    def _one_source(self) -> "ModelEntry":
        sources = [key for key in ("pretraining", "hub", "path", "checkpoint") if getattr(self, key) is not None]
        if len(sources) != 1:
            raise ValueError(
                f"exactly one of pretraining, hub, path, checkpoint must be set, found {sources or 'none'}"
            )
        if self.hub is not None and self.family != "gpt":
            raise ValueError(f"hub models enter the GPT arm: {self.hub!r} needs family: gpt")
        return self


class Finetuning(Entry):
    """How trained methods learn; defaults are those of the authors' public configuration."""

    learning_rate: float = Field(1e-4, gt=0, description="peak learning rate")
    batch_size: PositiveInt = Field(8, description="examples per step")
    micro_batch_size: PositiveInt | None = Field(None, description="examples per forward pass; null: the whole batch")
    epochs: float = Field(3.0, gt=0, description="passes over the training questions")
    max_steps: PositiveInt | None = Field(None, description="N steps, whatever `epochs` says; null: by epochs")
    warmup_steps: Count = Field(50, description="linear warm-up, then cosine to zero")
    weight_decay: float = Field(0.01, ge=0, description="decoupled weight decay")
    beta1: Share = Field(0.9, description="Adam beta 1")
    beta2: Share = Field(0.98, description="Adam beta 2")
    max_grad_norm: float = Field(1.0, gt=0, description="gradient clipping")


class FinetuningOverride(Entry):
    """Values of `finetuning` that one method changes."""

    learning_rate: float | None = Field(None, gt=0)
    batch_size: PositiveInt | None = None
    micro_batch_size: PositiveInt | None = None
    epochs: float | None = Field(None, gt=0)
    max_steps: PositiveInt | None = None
    warmup_steps: Count | None = None
    weight_decay: float | None = Field(None, ge=0)
    beta1: Share | None = None
    beta2: Share | None = None
    max_grad_norm: float | None = Field(None, gt=0)


class ZeroshotMethod(Entry):
    """The base model as it is."""

    kind: Literal["zeroshot"]


class _Trained(Entry):
    finetuning: FinetuningOverride = Field(default_factory=FinetuningOverride, description="overrides of `finetuning`")


class LoraMethod(_Trained):
    """Low-rank updates of the self-attention's query, key and value projections, in decoder and encoder."""

    kind: Literal["lora"]
    rank: PositiveInt = Field(32, description="rank")
    alpha: float | None = Field(None, gt=0, description="scale is alpha / rank; null: alpha = rank, scale 1")
    dropout: Share = Field(0.0, description="dropout before the down projection")


class PtuningMethod(_Trained):
    """Virtual tokens in front of the decoder's prompt, made by peft's prompt encoder (an MLP of three linear maps)."""

    kind: Literal["ptuning"]
    num_virtual_tokens: PositiveInt = Field(100, description="virtual tokens")
    encoder_hidden_size: PositiveInt = Field(2048, description="width of the prompt encoder's MLP")


class AdapterMethod(_Trained):
    """Parallel bottleneck adapters on the output of self-attention and MLP, in decoder and encoder."""

    kind: Literal["adapter"]
    bottleneck_dim: PositiveInt = Field(32, description="hidden width in the decoder")
    encoder_bottleneck_dim: PositiveInt | None = Field(None, description="hidden width in the encoder; null: the same")
    dropout: Share = Field(0.1, description="dropout on the adapter's output")


class FullMethod(_Trained):
    """All weights are trained."""

    kind: Literal["full"]


MethodEntry = Annotated[
    ZeroshotMethod | LoraMethod | PtuningMethod | AdapterMethod | FullMethod, Field(discriminator="kind")
]


class Evaluation(Entry):
    """How cells are scored."""

    batch_size: PositiveInt = Field(16, description="questions per generation batch")
    bootstrap_samples: Count = Field(1000, description="resamples for the 95 % confidence intervals; 0: none")


class Grid(Entry):
    """A product of names; null means every entry of that kind."""

    models: tuple[Name, ...] | None = Field(None, description="entries of `models`")
    methods: tuple[Name, ...] | None = Field(None, description="entries of `methods`")
    datasets: tuple[Name, ...] | None = Field(None, description="entries of `datasets`")
    retrievals: tuple[Name, ...] = Field(min_length=1, description="entries of `retrievals`")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="seeds of training")


class Select(Entry):
    """Narrows the grid by its coordinates; each key takes one value or a list."""

    model: str | tuple[str, ...] | None = Field(None, description="entries of `models`")
    family: str | tuple[str, ...] | None = Field(None, description="gpt, retro")
    size: str | tuple[str, ...] | None = Field(None, description="sizes")
    method: str | tuple[str, ...] | None = Field(None, description="entries of `methods`")
    dataset: str | tuple[str, ...] | None = Field(None, description="entries of `datasets`")
    retrieval: str | tuple[str, ...] | None = Field(None, description="entries of `retrievals`")
    seed: int | tuple[int, ...] | None = Field(None, description="seeds")


class Config(Entry):
    """A study."""

    study: Name = Field(description="name of the study; results lie in `results_dir`/`study`")
    data_root: str | None = Field(
        None, description="folder with raw files; null: where `world` or the downloads put them"
    )
    results_dir: str = Field("results", description="folder of all studies' results")
    resources_dir: str | None = Field(None, description="folder shared by cells; null: resources/`study`")
    world: World | None = Field(None, description="generate the demo world as `data_root`")
    datasets: dict[Name, DatasetEntry] = Field(description="question sets")
    corpora: dict[Name, CorpusEntry] = Field(default_factory=dict, description="text collections")
    chunkings: dict[Name, ChunkingEntry] = Field(default_factory=dict, description="ways to cut passages")
    retrievers: dict[Name, RetrieverEntry] = Field(default_factory=dict, description="encoders, BM25")
    indexes: dict[Name, IndexEntry] = Field(default_factory=dict, description="FAISS indexes")
    retrievals: dict[Name, RetrievalEntry] = Field(description="ways to get and give passages")
    tokenizers: dict[Name, TokenizerEntry] = Field(default_factory=dict, description="tokenizers trained here")
    sizes: dict[Name, SizeEntry] = Field(default_factory=dict, description="custom model shapes")
    pretrainings: dict[Name, PretrainingEntry] = Field(default_factory=dict, description="pretraining recipes")
    models: dict[Name, ModelEntry] = Field(description="base models")
    methods: dict[Name, MethodEntry] = Field(description="fine-tuning methods and their variants")
    finetuning: Finetuning = Field(default_factory=Finetuning, description="defaults of all trained methods")
    max_length: PositiveInt = Field(1024, description="tokens per example at most; contexts are cut first")
    evaluation: Evaluation = Field(default_factory=Evaluation, description="scoring")
    grid: tuple[Grid, ...] = Field(
        min_length=1, description="one or several products of names; their union is the study"
    )
    select: Select = Field(default_factory=Select, description="narrows the grid")

    @property
    def resources(self) -> str:
        """Folder of everything that cells share."""
        return self.resources_dir or f"resources/{self.study}"

    @property
    def raw(self) -> str:
        """Folder of raw files."""
        return self.data_root or f"{self.resources}/raw"

    def dataset_source(self, dataset: str, retrieval: str) -> str:
        """Name of what a dataset's questions retrieve from: the retrieval's corpus, or the dataset's own documents."""
        if self.datasets[dataset].reader not in OPEN_DOMAIN:
            return dataset
        corpus = self.retrievals[retrieval].corpus
        if corpus is None:
            raise ConfigError(f"retrievals.{retrieval}.corpus is not set, but {dataset} is open-domain: name a corpus")
        return corpus

    def finetuning_of(self, method: str) -> Finetuning:
        """Fine-tuning values of a trained method: the defaults with its overrides."""
        entry = self.methods[method]
        if isinstance(entry, ZeroshotMethod):
            raise ConfigError(f"methods.{method} is zeroshot and is not trained")
        return self.finetuning.model_copy(update=entry.finetuning.model_dump(exclude_none=True))


def load_config(raw: Mapping[str, Any]) -> Config:
    """Validate a parsed YAML mapping.

    Raises `ConfigError` with one line per problem: the key's path, what is wrong, and the nearest known key or name.
    """
    raw = {key: value for key, value in raw.items() if value is not None}
    if isinstance(raw.get("grid"), Mapping):
        raw["grid"] = [raw["grid"]]
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(dict(problem)) for problem in error.errors()]
        raise ConfigError("the configuration has errors:\n  " + "\n  ".join(lines)) from None
    problems = list(_dangling(config))
    if problems:
        raise ConfigError("the configuration has errors:\n  " + "\n  ".join(problems))
    return config


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; `ConfigError` names what is wrong with it."""
    import yaml

    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such configuration file") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a configuration is a mapping of keys, found {type(raw).__name__}")
    return raw


def read_config(path: str | Path) -> Config:
    """Read and validate a YAML file."""
    return load_config(read_yaml(path))


def nearest(name: str, known: list[str]) -> str:
    """A hint that names the nearest of `known`, or all of them when none is near."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known)) or 'none'}"


def _explain(problem: dict[str, Any]) -> str:
    location = [str(part) for part in problem["loc"]]
    place = ".".join(location)
    if problem["type"] == "extra_forbidden":
        return f"{place}: unknown key {location[-1]!r}; {nearest(location[-1], _keys_at(location[:-1]))}"
    value = problem.get("input")
    shown = "" if problem["type"] == "missing" or isinstance(value, dict) else f" (found {value!r})"
    return f"{place}: {problem['msg']}{shown}"


def _keys_at(location: list[str]) -> list[str]:
    """Known keys of the schema object at a location such as ['methods', 'lora-r8', 'lora']."""
    schema: Any = Config.model_json_schema()
    definitions = schema["$defs"]

    def resolve(node: Any) -> list[Any]:
        """All object schemas that a node may stand for."""
        if "$ref" in node:
            return resolve(definitions[node["$ref"].rsplit("/", 1)[-1]])
        options = [*node.get("anyOf", ()), *node.get("oneOf", ())]
        return [deeper for option in options for deeper in resolve(option)] or [node]

    nodes = [schema]
    for part in location:
        following = []
        for node in nodes:
            if part in node.get("properties", {}):
                following += resolve(node["properties"][part])
            elif "items" in node and part.isdigit():
                following += resolve(node["items"])
            elif isinstance(node.get("additionalProperties"), dict):
                following += resolve(node["additionalProperties"])
            elif part in (node.get("properties", {}).get("kind", {}).get("const"),):
                following.append(node)
            elif isinstance(node.get("patternProperties"), dict):
                for child in node["patternProperties"].values():
                    following += resolve(child)
        nodes = following or nodes
    return sorted({key for node in nodes for key in node.get("properties", {})})


def _dangling(config: Config) -> Iterator[str]:
    """Problems between entries: names without an entry, and names used twice where paths would collide."""

    def check(place: str, name: str | None, known: Mapping[str, Any] | tuple[str, ...], kind: str) -> Iterator[str]:
        if name is not None and name not in known:
            yield f"{place}: no entry {name!r} in `{kind}`; {nearest(name, list(known))}"

    if config.data_root is None and config.world is None:
        for name, entry in config.corpora.items():
            if entry.download is None:
                yield f"corpora.{name}: plain text has no official source to download from: set data_root"
    for name in sorted(set(config.datasets) & set(config.corpora)):
        yield f"datasets.{name}: a corpus has the same name; rename one, passages are stored by name"
    for name, retrieval in config.retrievals.items():
        place = f"retrievals.{name}"
        yield from check(f"{place}.retriever", retrieval.retriever, config.retrievers, "retrievers")
        yield from check(f"{place}.index", retrieval.index, config.indexes, "indexes")
        yield from check(f"{place}.corpus", retrieval.corpus, config.corpora, "corpora")
        yield from check(f"{place}.chunking", retrieval.chunking, config.chunkings, "chunkings")
        retriever = config.retrievers.get(retrieval.retriever or "")
        if retriever is not None and retriever.kind == "dense" and retrieval.index is None:
            yield f"{place}.index: the dense retriever {retrieval.retriever!r} needs an entry of `indexes`"
    for name, tokenizer in config.tokenizers.items():
        for corpus in tokenizer.corpora:
            yield from check(f"tokenizers.{name}.corpora", corpus, config.corpora, "corpora")
    for name, pretraining in config.pretrainings.items():
        place = f"pretrainings.{name}"
        for corpus in pretraining.corpora:
            yield from check(f"{place}.corpora", corpus, config.corpora, "corpora")
        yield from check(f"{place}.tokenizer", pretraining.tokenizer, config.tokenizers, "tokenizers")
        yield from check(f"{place}.retrieval", pretraining.retrieval, config.retrievals, "retrievals")
        named = config.retrievals.get(pretraining.retrieval or "")
        if named is not None and named.retriever is not None and named.corpus is None:
            yield f"{place}.retrieval: retrievals.{pretraining.retrieval} names no corpus to retrieve from"
        if (
            named is not None
            and pretraining.neighbors_per == "chunk"
            and (named.gpt.needed or named.retro.num_contexts)
        ):
            yield (
                f"{place}.neighbors_per: chunks get their passages in the encoder only, but retrievals."
                f"{pretraining.retrieval} has num_contexts: set it to 0, or neighbors_per: document"
            )
    for name, model in config.models.items():
        place = f"models.{name}"
        yield from check(f"{place}.pretraining", model.pretraining, config.pretrainings, "pretrainings")
        if model.hub is None and model.path is None:
            yield from check(f"{place}.size", model.size, (*PAPER_SIZES, *config.sizes), "sizes")
        size = config.sizes.get(model.size)
        if model.family == "retro" and model.pretraining is not None and size is not None and not size.can_cross:
            yield (
                f"{place}.size: {model.size} has no cross-attention layer: list sizes.{model.size}."
                "cross_attention_layers (NVIDIA's rule needs 6 layers or more)"
            )
    for number, grid in enumerate(config.grid):
        for key in ("models", "methods", "datasets", "retrievals"):
            for name in getattr(grid, key) or ():
                yield from check(f"grid.{number}.{key}", name, getattr(config, key), key)
        for retrieval_name in grid.retrievals:
            named = config.retrievals.get(retrieval_name)
            for dataset in grid.datasets or config.datasets:
                open_domain = dataset in config.datasets and config.datasets[dataset].reader in OPEN_DOMAIN
                if named is not None and named.retriever is not None and open_domain and named.corpus is None:
                    yield f"retrievals.{retrieval_name}.corpus: needed, because {dataset} is open-domain"
