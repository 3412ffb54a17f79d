"""The latency table of one device profile: measured entries, explicit interpolation, and a miss where nothing was
measured.

Letters: a *point* is (c_in, c_out); `p50` and `p90` are percentiles over all samples of a point, in microseconds.
"""

import json
import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lut.calibrate import Calibration, operator_us
from lut.coarse import coarse_signature, is_free
from lut.entry import Entries, Entry, entries_from_json, number, positive, profile_from_json, whole
from lut.interpolate import Pieces, Surface
from lut.pieces import cut_of
from lut.profile import DeviceProfile
from lut.request import GridRequest
from lut.signature import OpSignature

__all__ = ["SCHEMA_VERSION", "Entry", "LatencyTable", "LutMiss", "UnknownSchema"]

SCHEMA_VERSION = 1
GROWN = ("operator_offset_us", "masked_scale", "drift", "interpolation", "residual", "coarse")
"""Fields that a file may lack. (`offset_us`, which older ones have, was a network's, and is left out.)"""
NOISY = 0.05
"""A table during whose measurement the machine's pace scattered or drifted by more than this is noisy."""
_FEW_STAIRS = 4


class UnknownSchema(ValueError):
    """The file is a latency table of a schema that this version does not read."""


class LutMiss(LookupError):
    """The table has no entry, and none to interpolate from, for this key on this profile."""

    def __init__(self, signature: OpSignature, c_in: int, c_out: int, profile: DeviceProfile | None = None) -> None:
        self.signature = signature
        self.c_in = c_in
        self.c_out = c_out
        where = f" on {profile.hardware} ({profile.runtime} {profile.runtime_version})" if profile else ""
        super().__init__(f"no latency for {signature.kind} {c_in} -> {c_out} of {signature}{where}")


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Latencies of operators on one device profile (method section 5).

    A network's latency is the sum of `latency_us`, which contains the calibration.
    """

    profile: DeviceProfile
    entries: Entries
    """Per signature, the measured points."""
    step: int = 1
    """Width of the device's stair, as measured (`lut.measure.stair`): widths that are multiples of it waste nothing."""
    scale: float = 1.0
    """Calibration: whole networks over the sum of their entries."""
    operator_offset_us: float = 0.0
    """Calibration: microseconds each operator takes in a network beyond what it takes by itself; may be below nothing."""
    masked_scale: float = 1.0
    """Calibration: what lowered layers take in whole networks over what they take by themselves."""
    noise: float = 0.0
    """Relative scatter of the machine's pace (`lut.measure.pace`) within chunks: no smaller difference means anything."""
    drift: float = 0.0
    """How far the pace moved within a chunk, at most; relative. Moves between chunks are taken out."""
    interpolation: float = 0.0
    """What interpolation missed where that was looked at last, as a share of the latency there; lines were then added."""
    residual: float = 0.0
    """Median relative error of the calibrated table on the whole networks it was calibrated on; 0 where it was not."""
    seconds: float = 0.0
    """Wall time spent on measuring."""
    coarse: bool = False
    """True for a table whose key says less than a signature (`lut.coarse`): convolutions are looked up by what it says,
    counts it lacks cost what the cheapest measured point with at least as many channels does, all else is free.
    """
    schema_version: int = SCHEMA_VERSION
    _surfaces: dict[OpSignature, Surface | Pieces] = field(default_factory=dict, init=False, repr=False, compare=False)

    def latency_us(self, signature: OpSignature, c_in: int, c_out: int) -> float:
        """Return the calibrated p50 at one point: measured, or bilinear between measured points.

        A channel count at which nothing was measured and that lies on a stair counts as the end of that stair, where that is
        covered: the device computes the channels up to it anyway. Of a masked layer, points of the same piece count
        (`lut.pieces`), others only where there are none. Raises LutMiss for what was not measured, nor anything around it.
        """
        return float(self.grid_us(signature, [c_in], [c_out])[0, 0])

    def grid_us(self, signature: OpSignature, c_ins: Sequence[int], c_outs: Sequence[int]) -> np.ndarray:
        """Return `latency_us` for all pairs: float64 [len(c_ins), len(c_outs)]. Raises LutMiss for the first one not covered."""
        values = self.covered_us(signature, c_ins, c_outs)
        if np.isnan(values).any():
            i, j = np.argwhere(np.isnan(values))[0]
            raise LutMiss(signature, int(c_ins[i]), int(c_outs[j]), self.profile)
        return values

    def covered_us(self, signature: OpSignature, c_ins: Sequence[int], c_outs: Sequence[int]) -> np.ndarray:
        """Return what `grid_us` does, and NaN where the table does not cover a pair."""
        if self.coarse and is_free(signature):
            return np.zeros((len(c_ins), len(c_outs)))
        surface = self._surface(signature)
        if surface is None:
            return np.full((len(c_ins), len(c_outs)), np.nan)
        own = surface.grid(np.asarray(c_ins), np.asarray(c_outs))
        at_ends = surface.grid(*map(self._stair_ends, (c_ins, c_outs), surface.axes))
        if isinstance(surface, Pieces):
            filled = surface.filled(np.where(np.isnan(own), at_ends, own), c_ins, c_outs)
            return operator_us(self.scale * self.masked_scale * filled, self.operator_offset_us)
        values = np.where(np.isnan(own + at_ends), own, at_ends)
        if self.coarse and np.isnan(values).any():
            values = np.where(np.isnan(values), surface.at_least(c_ins, c_outs), values)
        return operator_us(self.scale * values, self.operator_offset_us)

    def least(self, signature: OpSignature) -> tuple[int, int]:
        """Return the fewest input channels and the fewest output channels measured of a signature; (1, 1) without any."""
        surface = self._surface(signature)
        return (min(surface.axes[0]), min(surface.axes[1])) if surface else (1, 1)

    def diagonal_us(self, signature: OpSignature, channels: Sequence[int]) -> np.ndarray:
        """Return `latency_us(signature, c, c)` for every c: float64 [len(channels)]; the form for paired requests."""
        return np.array([self.latency_us(signature, c, c) for c in channels])

    def predict_us(self, operators: Iterable[tuple[OpSignature, int, int]]) -> float:
        """Return the latency of a network given as (signature, c_in, c_out) of its operators. Raises LutMiss."""
        return sum(self.latency_us(*operator) for operator in operators)

    def missing(self, requests: Iterable[GridRequest]) -> list[GridRequest]:
        """Return the requests that the table does not cover in full."""
        return [request for request in requests if not self._covers(request)]

    def merge(self, other: "LatencyTable") -> "LatencyTable":
        """Return a table with the entries of both; where both measured a point, `other`'s stays (the newer one).

        Step and calibration are `other`'s where it has any. Raises ValueError when the profiles differ, or the keys.
        """
        if other.profile != self.profile or other.coarse != self.coarse:
            raise ValueError("tables of different device profiles or keys cannot be merged")
        each = {**self.entries, **other.entries}
        entries = {one: {**self.entries.get(one, {}), **other.entries.get(one, {})} for one in each}
        fitted = other if (other.scale, other.operator_offset_us) != (1.0, 0.0) else self
        return replace(
            fitted,
            entries=entries,
            step=other.step if other.step > 1 else self.step,
            noise=other.noise if other.entries else self.noise,
            drift=max(self.drift, other.drift),
            interpolation=other.interpolation or self.interpolation,
            seconds=self.seconds + other.seconds,
        )

    def calibrated(self, calibration: Calibration) -> "LatencyTable":
        """Return the table whose predictions are this one's put through `calibration`."""
        offset_us = calibration.apply(self.operator_offset_us, 1)
        return replace(self, scale=self.scale * calibration.scale, operator_offset_us=offset_us)

    def candidate_widths(self, dense: int, limit: int = 32) -> tuple[int, ...]:
        """Return widths worth offering for a coupling group of `dense` channels, ascending, the last is `dense`; at
        most about `limit`.

        Ends of stairs (multiples of `step`), thinned evenly when there are many. In groups of few stairs also a
        quarter and a half of the first: fewer *input* channels can still pay there, which the entries then tell.
        """
        stairs = list(range(self.step, dense, self.step))
        thin = max(1, math.ceil(len(stairs) / limit))
        # Counted from the dense side, so that light pruning keeps its finest choices.
        kept = stairs[::-1][thin - 1 :: thin][::-1] if thin > 1 else stairs
        below = [width for width in (self.step // 4, self.step // 2) if 1 <= width < dense <= _FEW_STAIRS * self.step]
        return tuple(sorted({*below, *kept[:limit], *stairs[:1], dense}))

    @property
    def noisy(self) -> bool:
        """Whether the machine was too restless for differences of a few per cent to mean anything."""
        return max(self.noise, self.drift) > NOISY

    @cached_property
    def num_entries(self) -> int:
        """Measured points over all signatures."""
        return sum(len(points) for points in self.entries.values())

    def figures(self) -> dict[str, Any]:
        """Return what a registry keeps of a table beside its file."""
        named = {
            name: getattr(self, name) for name in ("num_entries", "step", "noise", "drift", "interpolation", "seconds")
        }
        return named | {
            "profile": asdict(self.profile),
            "num_signatures": len(self.entries),
            "calibration_residual": self.residual,
        }

    def to_json(self) -> dict[str, Any]:
        """Return the table as JSON values; `from_json` gives an equal table back."""
        head = {name: getattr(self, name) for name in ("schema_version", "step", "scale", "noise", "seconds")}
        rows = [
            {
                "signature": signature.to_json(),
                "points": [
                    [*point, e.p50_us, e.p90_us, e.num_samples, *([list(e.samples_us)] if e.samples_us else [])]
                    for point, e in sorted(points.items())
                ],
            }
            for signature, points in sorted(self.entries.items())
        ]
        head |= {name: value for name in GROWN if (value := getattr(self, name))}
        return head | {"profile": asdict(self.profile), "entries": rows}

    @classmethod
    def from_json(cls, data: object) -> "LatencyTable":
        """Return the table of `to_json`. Raises ValueError, saying what is wrong, for anything else."""
        if not isinstance(data, dict):
            raise ValueError("a latency table is a JSON object")
        if data.get("schema_version") != SCHEMA_VERSION:
            given = f"{data.get('schema_version')!r:.40}"
            raise UnknownSchema(f"latency table schema {given}: this version reads {SCHEMA_VERSION}")
        try:
            return cls(
                profile=profile_from_json(data["profile"]),
                entries=entries_from_json(data["entries"]),
                step=whole(data["step"], "step"),
                scale=positive(data["scale"], "scale"),
                operator_offset_us=number(data.get("operator_offset_us", 0.0), "operator_offset_us"),
                masked_scale=positive(data.get("masked_scale", 1.0), "masked_scale"),
                noise=number(data["noise"], "noise", least=0.0),
                drift=number(data.get("drift", 0.0), "drift", least=0.0),
                interpolation=number(data.get("interpolation", 0.0), "interpolation", least=0.0),
                residual=number(data.get("residual", 0.0), "residual", least=0.0),
                seconds=number(data["seconds"], "seconds", least=0.0),
                coarse=data.get("coarse") is True,
            )
        except KeyError as missing:
            raise ValueError(f"latency table lacks the field {missing}") from None
        except (TypeError, AttributeError) as wrong:
            raise ValueError(f"latency table is malformed: {wrong}") from None

    def to_bytes(self) -> bytes:
        """Return the table as a JSON file's content; equal tables give equal bytes."""
        return json.dumps(self.to_json(), separators=(",", ":"), allow_nan=False).encode()

    def save(self, path: Path) -> None:
        """Write the table as JSON, whole or not at all."""
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(self.to_bytes())
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: Path) -> "LatencyTable":
        """Return the table saved at `path`. Raises ValueError when it holds none, OSError when it cannot be read."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            raise ValueError(f"{path.name} is not JSON") from None
        return cls.from_json(data)

    def _stair_ends(self, counts: Sequence[int], measured: frozenset[int]) -> np.ndarray:
        """Return the counts; those beyond the first stair and not measured are rounded up to the next multiple of `step`."""
        return np.array([c if c in measured or c < self.step else -(-int(c) // self.step) * self.step for c in counts])

    def _surface(self, signature: OpSignature) -> Surface | Pieces | None:
        key = coarse_signature(signature) if self.coarse else signature
        if key not in self._surfaces and self.entries.get(key):
            values = {point: entry.p50_us for point, entry in self.entries[key].items()}
            cut = cut_of(key, self.step)
            self._surfaces[key] = Pieces(values, cut) if cut else Surface(values)
        return self._surfaces.get(key)

    def _covers(self, request: GridRequest) -> bool:
        if self.coarse:
            return self._answers(request)
        surface = self._surface(request.signature)
        if surface is None:
            return False
        c_ins, c_outs = np.array(request.c_ins), np.array(request.c_outs)
        grids = [surface.grid(c, c) for c in c_ins[:, None]] if request.paired else [surface.grid(c_ins, c_outs)]
        return not any(np.isnan(grid).any() for grid in grids)

    def _answers(self, request: GridRequest) -> bool:
        try:
            if request.paired:
                self.diagonal_us(request.signature, request.c_ins)
            else:
                self.grid_us(request.signature, request.c_ins, request.c_outs)
        except LutMiss:
            return False
        return True
