"""Which datasets the configuration knows, and what it must know of them."""

from typing import Literal

Reader = Literal["nq", "triviaqa", "narrativeqa", "qasper", "quality", "qmsum"]
OPEN_DOMAIN: frozenset[str] = frozenset({"nq", "triviaqa"})
"""Readers whose questions retrieve from a corpus; all others retrieve from the question's own document."""
WITHOUT_GOLD: frozenset[str] = frozenset({"qmsum"})
"""Readers whose answers are summaries: no passage holds one."""
PAPER_SIZES = ("xs", "s", "m", "l", "xxl")
