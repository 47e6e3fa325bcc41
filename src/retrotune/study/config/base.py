"""What entries name that is no entry: dataset readers and layouts, as the datasets' records have them, and sizes."""

from typing import TYPE_CHECKING, Literal

from retrotune.data.datasets import SPECS

if TYPE_CHECKING:
    Reader = str
    LayoutName = str
else:
    Reader = Literal[tuple(SPECS)]
    LayoutName = Literal[tuple(dict.fromkeys(name for spec in SPECS.values() for name in spec.layouts))]
PAPER_SIZES = ("xs", "s", "m", "l", "xxl")
