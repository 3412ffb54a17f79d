"""The service's own body: it needs no torch."""

from workers.steps.inspect_lut import run

__all__ = ["run"]
