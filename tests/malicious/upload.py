"""An upload made to do harm."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Build = Callable[[], bytes]


@dataclass(frozen=True, kw_only=True)
class Malicious:
    """One upload."""

    name: str
    purpose: str
    """`model` or `dataset`."""
    build: Build
    code: str
    arch: str = "cifar/resnet20"
    limits: Mapping[str, float] = field(default_factory=dict)
