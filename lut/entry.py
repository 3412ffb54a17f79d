"""Entries of a latency table, and how JSON from anywhere becomes entries or a sentence that says what is wrong with it."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from lut.profile import DeviceProfile
from lut.signature import KINDS, OpSignature

MOST_POINTS = 1 << 20
"""Points a table may hold; the largest we know of has forty thousand."""
MOST_POINTS_OF_ONE = 1 << 13
"""Points one signature may hold: interpolation looks at all pairs of rows."""
MOST_SAMPLES = 1 << 12
"""Samples one point may hold."""
_LARGEST = 1e12
_TEXT = re.compile(r"[^\x00-\x1f\x7f]{0,200}")
_WORD = re.compile(r"\w{0,32}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Measured latency of one operator at one point."""

    p50_us: float
    p90_us: float
    num_samples: int
    """Runs that the percentiles are over: those that nothing disturbed, where there were enough."""
    samples_us: tuple[float, ...] = ()
    """Every timed run in order, disturbed ones too; empty where a table came without."""

    def faster(self, factor: float) -> "Entry":
        """Return what a machine that is `factor` times as fast would have measured; > 0."""
        samples = tuple(round(us / factor, 3) for us in self.samples_us)
        return replace(self, p50_us=self.p50_us / factor, p90_us=self.p90_us / factor, samples_us=samples)

    def longer(self, us: float) -> "Entry":
        """Return the same with `us` more in all of it."""
        samples = tuple(round(own + us, 3) for own in self.samples_us)
        return replace(self, p50_us=self.p50_us + us, p90_us=self.p90_us + us, samples_us=samples)


Points = dict[tuple[int, int], Entry]
Entries = Mapping[OpSignature, Mapping[tuple[int, int], Entry]]


def profile_from_json(data: dict[str, Any]) -> DeviceProfile:
    """Return the profile. Raises ValueError, or TypeError for fields that are missing or unknown."""
    profile = DeviceProfile(**data)
    for name, value in asdict(profile).items():
        if name in ("threads", "batch"):
            whole(value, name)
        elif name == "huge_pages" and isinstance(value, bool):
            continue
        elif not isinstance(value, str) or not _TEXT.fullmatch(value):
            raise ValueError("the device profile has a field of the wrong type")
    return profile


def entries_from_json(rows: object) -> dict[OpSignature, Points]:
    """Return the points by signature. Raises ValueError, or what Python raises for a malformed row."""
    if not isinstance(rows, list):
        raise ValueError("entries of a latency table are a list")
    entries: dict[OpSignature, Points] = {}
    num_points = 0
    for row in rows:
        signature = signature_from_json(row["signature"])
        for point in row["points"]:
            if not isinstance(point, list) or len(point) not in (5, 6):
                raise ValueError("a point is [c_in, c_out, p50_us, p90_us, num_samples, samples_us]")
            entry = Entry(
                p50_us=positive(point[2], "p50_us"),
                p90_us=positive(point[3], "p90_us"),
                num_samples=whole(point[4], "num_samples"),
                samples_us=_samples(point[5]) if len(point) == 6 else (),
            )
            add_point(entries, signature, (whole(point[0], "c_in"), whole(point[1], "c_out")), entry)
        num_points += len(row["points"])
        if num_points > MOST_POINTS:
            raise ValueError(f"a latency table holds {MOST_POINTS:,} entries at most")
    return entries


def _samples(values: object) -> tuple[float, ...]:
    if not isinstance(values, list) or len(values) > MOST_SAMPLES:
        raise ValueError(f"samples of a point are a list of {MOST_SAMPLES:,} numbers at most")
    return tuple(number(value, "samples_us") for value in values)


def add_point(entries: dict[OpSignature, Points], signature: OpSignature, point: tuple[int, int], entry: Entry) -> None:
    """Put a point into `entries`. Raises ValueError when it is there already, or when the signature has too many."""
    points = entries.setdefault(signature, {})
    if point in points:
        raise ValueError(f"{signature.kind} {point[0]} -> {point[1]} is there twice: {signature}")
    if len(points) >= MOST_POINTS_OF_ONE:
        raise ValueError(f"one operator has {MOST_POINTS_OF_ONE:,} entries at most: {signature}")
    points[point] = entry


def signature_from_json(data: dict[str, Any]) -> OpSignature:
    """Return the signature. Raises ValueError, or TypeError for fields that are missing or unknown."""
    signature = OpSignature.from_json(data)
    pairs = (signature.kernel, signature.stride, signature.padding, signature.dilation)
    numbers = [signature.height, signature.width, signature.groups, *(n for pair in pairs for n in pair)]
    numeric = all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**31 for n in numbers)
    flags = isinstance(signature.bias, bool) and isinstance(signature.residual, bool)
    known = signature.kind in KINDS and _WORD.fullmatch(signature.activation)
    if not known or not numeric or not flags or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"not an operator signature: {str(data)[:300]}")
    return signature


def number(value: object, name: str, *, least: float = -_LARGEST) -> float:
    """Return a finite number between `least` and 1e12. Raises ValueError for anything else, NaN included."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= _LARGEST:
        at_least = "" if least == -_LARGEST else f" of at least {least:g}"
        raise ValueError(f"{name} must be a number{at_least}, got {str(value)[:40]!r}")
    return float(value)


def positive(value: object, name: str) -> float:
    """Return a number of at least 1e-6. Raises ValueError."""
    return number(value, name, least=1e-6)


def whole(value: object, name: str) -> int:
    """Return a whole number of at least 1. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r:.40}")
    return value
