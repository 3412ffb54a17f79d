"""Pictures of a latency table as PNG files: the stairs, the surfaces, and what was predicted beside what was measured."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lut.signature import OpSignature
from lut.table import LatencyTable

MOST_PANELS = 32
"""Operators shown; the dearest come first."""
COLUMNS = 4
PANEL_INCHES = (3.2, 2.5)
DPI = 110
FINE = 128
"""Most channel counts along an axis of a surface."""
INK, LEAF, AMBER, GRID = "#1f2d3d", "#4c9a5f", "#d98324", "#d9dee4"

Pair = Mapping[str, Any]
Plot = Callable[[LatencyTable, Sequence[Pair], Path], None]


def staircases(table: LatencyTable, pairs: Sequence[Pair], path: Path) -> None:
    """Draw, for each operator, latency in us over c_out at the widest measured c_in, measured points marked."""
    del pairs
    chosen = _dearest(table)[:MOST_PANELS]
    figure, panels = _panels(len(chosen), _title(table, "latency over output channels"))
    for axes, signature in zip(panels, chosen, strict=True):
        points = table.entries[signature]
        paired = all(c_in == c_out for c_in, c_out in points)
        dense = max(c_in for c_in, _ in points)
        shown = sorted((o, e.p50_us) for (i, o), e in points.items() if paired or i == dense)
        marks = np.array(shown, dtype=float)
        outs = np.unique(np.linspace(marks[0, 0], marks[-1, 0], 4 * FINE).round().astype(int))
        if paired:
            line = np.array([table.covered_us(signature, [o], [o])[0, 0] for o in outs.tolist()])
        else:
            line = table.covered_us(signature, [dense], outs.tolist())[0]
        axes.plot(outs, line, color=LEAF, linewidth=1.4)
        axes.plot(marks[:, 0], marks[:, 1], "o", color=INK, markersize=3)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("us", fontsize=7)
        axes.set_title(label(signature), fontsize=7)
        axes.set_xlabel("channels" if paired else f"c_out at c_in = {dense}", fontsize=7)
    _save(figure, path)


def heatmaps(table: LatencyTable, pairs: Sequence[Pair], path: Path) -> None:
    """Draw, for each operator measured over both, latency in us over (c_in, c_out), measured points marked."""
    del pairs
    chosen = [s for s in _dearest(table) if _is_surface(list(table.entries[s]))][:MOST_PANELS]
    figure, panels = _panels(len(chosen), _title(table, "us over input and output channels"))
    for axes, signature in zip(panels, chosen, strict=True):
        measured = np.array(list(table.entries[signature]), dtype=int)
        ins, outs = (np.unique(np.linspace(*_span(measured[:, k]), FINE).round().astype(int)) for k in (0, 1))
        values = table.covered_us(signature, ins.tolist(), outs.tolist()).T
        image = axes.pcolormesh(ins, outs, values, shading="nearest", cmap="YlGn", rasterized=True)
        axes.set_title(label(signature), fontsize=7)
        axes.plot(measured[:, 0], measured[:, 1], ".", color=INK, markersize=1.5)
        axes.grid(False)
        axes.set_xlabel("c_in", fontsize=7)
        axes.set_ylabel("c_out", fontsize=7)
        figure.colorbar(image, ax=axes).ax.tick_params(labelsize=6)
    _save(figure, path)


def accuracy(table: LatencyTable, pairs: Sequence[Pair], path: Path) -> None:
    """Draw measured over predicted latency of the networks that jobs made (`predicted_ms`, `measured_ms`)."""
    figure, (axes,) = _panels(1, _title(table, "what jobs measured"), columns=1, scale=1.8)
    predicted, measured = (np.array([pair[name] for pair in pairs]) for name in ("predicted_ms", "measured_ms"))
    if len(pairs):
        ends = np.array([0.9 * min(predicted.min(), measured.min()), 1.1 * max(predicted.max(), measured.max())])
        axes.plot(ends, ends, color=INK, linewidth=1, label="as predicted")
        axes.fill_between(ends, 0.9 * ends, 1.1 * ends, color=GRID, alpha=0.6, linewidth=0, label="within 10 %")
        axes.plot(predicted, measured, "o", color=AMBER, markersize=5)
        axes.legend(fontsize=7, frameon=False)
    axes.set_title(f"{len(pairs)} job{'' if len(pairs) == 1 else 's'}", fontsize=8)
    axes.set_xlabel("predicted by the table, ms", fontsize=8)
    axes.set_ylabel("measured, ms", fontsize=8)
    _save(figure, path)


PLOTS: Mapping[str, Plot] = {"staircases": staircases, "heatmaps": heatmaps, "accuracy": accuracy}
"""Every picture, by the name it has at the service."""


def part(table: LatencyTable, signatures: Iterable[OpSignature], most: int) -> LatencyTable:
    """Return the table of the `most` dearest of these operators that have a surface: what a report has room to show."""
    own = {s: table.entries[s] for s in signatures if _is_surface(list(table.entries.get(s, ())))}
    dearest = _dearest(replace(table, entries=own))[:most]
    return replace(table, entries={s: own[s] for s in dearest})


def label(signature: OpSignature) -> str:
    """Return a short name of an operator: `conv 3x3/2 56x56 relu +`."""
    kernel = f" {signature.kernel[0]}x{signature.kernel[1]}" if signature.kind in ("conv", "depthwise") else ""
    stride = f"/{signature.stride[0]}" if max(signature.stride) > 1 else ""
    groups = f" g{signature.groups}" if signature.groups > 1 else ""
    rest = " ".join(filter(None, (signature.activation, "+" if signature.residual else "", signature.pattern)))
    return f"{signature.kind}{kernel}{stride}{groups} {signature.height}x{signature.width} {rest}".rstrip()


def _is_surface(points: Sequence[tuple[int, int]]) -> bool:
    ins, outs = {i for i, _ in points}, {o for _, o in points}
    return min(len(ins), len(outs)) > 1 and len(points) > max(len(ins), len(outs))


def _dearest(table: LatencyTable) -> list[OpSignature]:
    cost = {s: max(e.p50_us for e in points.values()) for s, points in table.entries.items() if points}
    return sorted(cost, key=lambda s: (-cost[s], s))


def _span(counts: np.ndarray) -> tuple[int, int]:
    return int(counts.min()), int(counts.max())


def _title(table: LatencyTable, what: str) -> str:
    profile = table.profile
    return f"{profile.hardware}, {profile.runtime}, {profile.threads} threads, batch {profile.batch}: {what}"


def _panels(count: int, title: str, *, columns: int = COLUMNS, scale: float = 1.0) -> tuple[Figure, list[Axes]]:
    """Return a figure of `count` panels; without pyplot, so that no state is shared and no display looked for."""
    rows = max(1, -(-count // columns))
    width, height = (scale * side for side in PANEL_INCHES)
    figure = Figure(figsize=(columns * width, rows * height + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=9, color=INK, parse_math=False)
    panels = [figure.add_subplot(rows, columns, number + 1) for number in range(count)]
    for axes in panels:
        axes.tick_params(labelsize=6)
        axes.grid(color=GRID, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", dpi=DPI, metadata={"Software": None})
