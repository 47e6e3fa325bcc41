"""What all declared values share: the base class of entries, and the kinds of values."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Family = Literal["gpt", "retro"]
PositiveInt = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Entry(BaseModel):
    """Base of all entries: immutable, unknown keys forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def given(self) -> dict[str, Any]:
        """Values that are no defaults, as JSON has them; an equal entry can be made of them."""
        return self.model_dump(mode="json", exclude_defaults=True)
