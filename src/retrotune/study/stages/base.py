"""Base of what stages use."""

import json
from typing import Any, ClassVar, Self

from retrotune.entries import Entry
from retrotune.errors import ConfigError

Files = dict[str, tuple[int, int]]
"""Size and time (ns) of files outside of the workflow, by name: planning compares these, jobs record digests."""


class StageParams(Entry):
    """Base of what stages use; `stage` is the name, `version` the number of the stage's code."""

    stage: ClassVar[str]
    version: ClassVar[int]

    def text(self) -> str:
        """JSON with sorted keys, the stage's number in it, and without defaults: a new field reruns nothing."""
        return json.dumps({"version": self.version, **self.given()}, sort_keys=True)

    @classmethod
    def of(cls, text: str) -> Self:
        """What `text` says; `ConfigError` if it is of another version of the stage."""
        values = json.loads(text)
        version = values.pop("version")
        if version != cls.version:
            raise ConfigError(
                f"{cls.stage}: planned by version {version}, but the code is version {cls.version} now: it was changed "
                "while the workflow ran; start snakemake again"
            )
        return cls.model_validate(values)

    def recorded(self) -> dict[str, Any]:
        """All values, defaults included, as results keep them."""
        return {"version": self.version, **self.model_dump(mode="json")}


class ReadsRaw(StageParams):
    """Base of what reads raw files; `raw` is a digest of names, sizes and times of those outside of the workflow."""

    raw: str = ""
