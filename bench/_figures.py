"""Rows of the bench of the service: a value, its unit, and the target it has to keep."""

from collections.abc import Sequence
from typing import Any


def figure(
    check: str, value: float, unit: str, *, least: float | None = None, most: float | None = None
) -> dict[str, Any]:
    """A row; its target is a `least` or a `most`, or there is none."""
    target = None if least is most is None else f">= {least:g}" if least is not None else f"<= {most:g}"
    ok = None if target is None else (value >= least if least is not None else value <= (most or 0.0))
    return {"check": check, "value": round(value, 4), "unit": unit, "target": target, "ok": ok}


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that at least this share of the values does not exceed; infinite for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("inf")
