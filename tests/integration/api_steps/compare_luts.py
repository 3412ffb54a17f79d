"""The service's own body: it needs no torch."""

from workers.steps.compare_luts import run

__all__ = ["run"]
