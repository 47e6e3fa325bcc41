"""What a record of a method is, the entry that declares one in a study, and how trained methods learn.

Imports no torch: the configuration is built from the records.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeAlias, get_args

from pydantic import Field, create_model

from retrotune.entries import Count, Entry, PositiveInt, Share
from retrotune.errors import MethodError


class Finetuning(Entry):
    """How trained methods learn; defaults are those of the authors' public configuration."""

    learning_rate: float = Field(1e-4, gt=0, description="peak learning rate")
    batch_size: PositiveInt = Field(8, description="examples per step")
    micro_batch_size: PositiveInt | None = Field(None, description="examples per forward pass; null: the whole batch")
    epochs: float = Field(3.0, gt=0, description="passes over the training questions")
    max_steps: PositiveInt | None = Field(None, description="N steps, whatever `epochs` says; null: by epochs")
    warmup_steps: Count = Field(50, description="linear warm-up, at most half of the steps; then cosine to zero")
    weight_decay: float = Field(0.01, ge=0, description="decoupled weight decay")
    beta1: Share = Field(0.9, description="Adam beta 1")
    beta2: Share = Field(0.98, description="Adam beta 2")
    max_grad_norm: float = Field(1.0, gt=0, description="gradient clipping")
    activation_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass: far less memory, a third more operations"
    )


if TYPE_CHECKING:
    FinetuningOverride: TypeAlias = Entry
else:
    FinetuningOverride = create_model(
        "FinetuningOverride",
        __base__=Entry,
        __doc__="Values of `finetuning` that one method changes; null: as there.",
        __module__=__name__,
        **{
            name: (
                Annotated[(field.annotation, *field.metadata)] | None if field.metadata else field.annotation | None,
                Field(None, description=field.description),
            )
            for name, field in Finetuning.model_fields.items()
        },
    )


class MethodSchema(Entry):
    """Base of methods' entries. Each has a `kind` of its own: `kind: Literal["lora"]`."""

    trained: ClassVar[bool] = False
    """Whether there is anything to train, to save and to load."""
    kind: str

    def recipe(self, defaults: Finetuning) -> Finetuning | None:
        """How the method learns where a study's defaults are these; None if it does not."""
        return None

    def without_overrides(self) -> Self:
        """The method as it is attached, whatever it learns by."""
        return self


class TrainedMethod(MethodSchema):
    """Base of the entries of methods that train something."""

    trained: ClassVar[bool] = True
    finetuning: FinetuningOverride = Field(default_factory=FinetuningOverride, description="overrides of `finetuning`")

    def recipe(self, defaults: Finetuning) -> Finetuning:
        """`defaults` with the method's own values in place."""
        return defaults.model_copy(update=self.finetuning.model_dump(exclude_none=True))

    def without_overrides(self) -> Self:
        """The method as it is attached, whatever it learns by."""
        return self.model_copy(update={"finetuning": FinetuningOverride()})


ModuleName = Annotated[str, Field(pattern=r"^\w+(\.\w+)*$")]


class TargetedMethod(TrainedMethod):
    """Base of the entries of methods that change modules of every layer, or those that a study names."""

    targets: tuple[ModuleName, ...] | None = Field(
        None,
        min_length=1,
        description="modules that are changed, by their names or the ends of these; null: those that docs/methods.md "
        "names, which each layer must have",
    )

    @property
    def chosen(self) -> tuple[str, ...]:
        """All modules that the study names; none where they are the method's usual ones."""
        return self.targets or ()


@dataclass(frozen=True)
class Shape:
    """Widths of a decoder, and of RETRO's neighbor encoder, which shares all but the number of layers."""

    num_layers: int
    encoder_layers: int
    hidden_size: int
    query_size: int
    key_size: int
    intermediate_size: int

    @property
    def all_layers(self) -> int:
        """Layers of decoder and encoder."""
        return self.num_layers + self.encoder_layers

    @classmethod
    def of(cls, config: Any) -> "Shape":
        """Widths by the configuration of a model of this package, or of one that names them as Llama does."""
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(
            num_layers=config.num_hidden_layers,
            encoder_layers=config.encoder_num_layers if getattr(config, "cross_attention_layers", None) else 0,
            hidden_size=config.hidden_size,
            query_size=heads * head_dim,
            key_size=(getattr(config, "num_key_value_heads", None) or heads) * head_dim,
            intermediate_size=config.intermediate_size,
        )


def no_virtual_tokens(entry: Any) -> int:
    """For methods that put nothing in front of the prompt."""
    return 0


@dataclass(frozen=True)
class Method:
    """Everything that the package knows of a method. What is missing is refused when the record is made.

    schema: entry of a study's `methods`; its `kind` names the method.
    attach: makes a base model ready to train as an entry says: (model, entry) -> model. It may change the base model in
        place, and freezes what is not trained. Imports torch and peft inside.
    saves: what is trained and saved: nothing, an adapter in peft's layout, or a whole model in transformers'.
    peft_type: of an adapter, the name by which peft knows the method.
    prefix: of an adapter, how a part of each trained weight's name begins, and none of the base model's. The base
        model's fingerprint leaves such weights out.
    extension: of an adapter that peft does not have, the module whose import makes peft know it.
    float32: whether the base model is held in float32 for training even where the study holds it in bfloat16, which
        would round the updates of its own weights away. An adapter's weights are in float32 in any case.
    num_virtual_tokens: placeholder tokens that each row of a batch must carry, by an entry.
    num_parameters: weights that the method trains on its usual targets, by an entry and a model's widths; None: there
        is no such formula.
    """

    schema: type[MethodSchema]
    attach: Callable[[Any, Any], Any]
    saves: Literal["nothing", "adapter", "model"]
    peft_type: str | None = None
    prefix: str | None = None
    extension: str | None = None
    float32: bool = False
    num_virtual_tokens: Callable[[Any], int] = no_virtual_tokens
    num_parameters: Callable[[Any, Shape], int] | None = None

    @property
    def kind(self) -> str:
        """The method's name in a study and beside saved weights."""
        kinds = get_args(self.schema.model_fields["kind"].annotation)
        if len(kinds) != 1:
            raise MethodError(f'{self.schema.__name__}: names no method; give it `kind: Literal["..."]`')
        return str(kinds[0])

    def __post_init__(self) -> None:
        """Refuse with a `MethodError` what could not be saved, or not be told from the base model's weights."""
        kind = self.kind
        if self.schema.trained != (self.saves != "nothing"):
            base = "MethodSchema" if self.saves == "nothing" else "TrainedMethod"
            raise MethodError(f"{kind}: saves {self.saves!r}; derive {self.schema.__name__} from {base}, or mend it")
        for name, value in (("peft_type", self.peft_type), ("prefix", self.prefix)):
            if self.saves == "adapter" and not value:
                raise MethodError(f"{kind}: an adapter needs a {name}; add it to the method's record")
        if self.saves != "adapter" and (self.peft_type or self.prefix or self.extension):
            raise MethodError(f"{kind}: a peft_type, prefix or extension is an adapter's; remove it from the record")
        if self.prefix and (not self.prefix.endswith("_") or "." in self.prefix):
            raise MethodError(
                f"{kind}: prefix {self.prefix!r} must end in _ and hold no dot; correct the method's record"
            )


def parts_begin(name: str, prefix: str | tuple[str, ...]) -> bool:
    """Whether a part of a weight's name begins with a prefix."""
    return any(part.startswith(prefix) for part in name.split("."))
