"""Entries of fine-tuning methods; defaults are those of the authors' public configuration."""

from typing import Annotated, Literal

from pydantic import Field

from retrotune.entries import Count, Entry, PositiveInt, Share


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
    activation_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass: far less memory, a third more operations"
    )


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
    activation_checkpointing: bool | None = None


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
