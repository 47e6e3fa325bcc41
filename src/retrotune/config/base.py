"""What all entries of the configuration share: the base class and the kinds of values."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Family = Literal["gpt", "retro"]
Reader = Literal["nq", "triviaqa", "narrativeqa", "qasper", "quality", "qmsum"]
OPEN_DOMAIN: frozenset[str] = frozenset({"nq", "triviaqa"})
"""Readers whose questions retrieve from a corpus; all others retrieve from the question's own document."""
WITHOUT_GOLD: frozenset[str] = frozenset({"qmsum"})
"""Readers whose answers are summaries: no passage holds one."""
PAPER_SIZES = ("xs", "s", "m", "l", "xxl")

PositiveInt = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Entry(BaseModel):
    """Base of all configuration entries: immutable, unknown keys forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True)
