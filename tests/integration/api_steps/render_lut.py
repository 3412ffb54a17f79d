"""The service's own body: it needs no torch."""

from workers.steps.render_lut import run

__all__ = ["run"]
