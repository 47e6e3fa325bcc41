"""Which function makes what a stage uses."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from retrotune.study.config import Config
from retrotune.study.stages import StageParams

Wildcards = Mapping[str, str]
Resolver = Callable[[Config, Wildcards], StageParams]
R = TypeVar("R", bound=Resolver)
RESOLVERS: dict[str, Resolver] = {}


def resolver(stage: str) -> Callable[[R], R]:
    """Marks the function that makes what a stage uses."""

    def register(function: R) -> R:
        RESOLVERS[stage] = function
        return function

    return register
