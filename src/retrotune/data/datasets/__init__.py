"""Datasets: files, splits, prompts, metric. A new one is a file here with its record, and a line below."""

from retrotune.data.datasets import narrativeqa, nq, qasper, qmsum, quality, squad, triviaqa
from retrotune.data.datasets.base import DatasetSpec, Example, Passage
from retrotune.errors import ConfigError

SPECS: dict[str, DatasetSpec] = {
    module.SPEC.name: module.SPEC for module in (nq, triviaqa, narrativeqa, qasper, quality, qmsum, squad)
}

__all__ = ["SPECS", "DatasetSpec", "Example", "Passage", "get_spec"]


def get_spec(reader: str) -> DatasetSpec:
    """The dataset called `reader`; `ConfigError` names the known ones."""
    if reader not in SPECS:
        raise ConfigError(f"dataset reader {reader!r} is unknown; known are {', '.join(SPECS)}")
    return SPECS[reader]
