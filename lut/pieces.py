"""Where the latency of a masked layer jumps from one width to the next.

A lowered layer is a grouped convolution of block-rows. Runtimes have a fast way for groups that read and give whole
stairs of channels, and a slow one, two to three times as long, for all others; a single block-row is an ordinary
convolution of fewer inputs. From width to width a layer changes between these, so only widths of one piece tell of
each other.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial

from lut.pattern import Pattern
from lut.signature import OpSignature

Piece = tuple[Hashable, list[int], list[int]]
"""What its points have in common, and their positions among the input and the output channel counts."""
Cut = Callable[[Sequence[int], Sequence[int]], Iterator[Piece]]
"""Cuts counts x counts into pieces, each of them rows x columns."""

_ONE_ROW = "one block-row"


def cut_of(signature: OpSignature, step: int) -> Cut | None:
    """Return how the channel counts of a lowered layer fall into pieces on a device of stairs this wide; None for what is one piece."""
    pattern = Pattern.parse(signature.pattern) if signature.pattern else None
    return partial(_cut, pattern, step) if pattern and pattern.lowerable else None


def _cut(pattern: Pattern, step: int, c_ins: Sequence[int], c_outs: Sequence[int]) -> Iterator[Piece]:
    every = list(range(len(c_ins)))
    rows = _alike([_reads_stairs(pattern, int(c_in), step) for c_in in c_ins])
    for gives, columns in _alike([_gives_stairs(pattern, int(c_out), step) for c_out in c_outs]).items():
        for reads, some in {_ONE_ROW: every}.items() if gives == _ONE_ROW else rows.items():
            yield (reads, gives), some, columns


def _reads_stairs(pattern: Pattern, c_in: int, step: int) -> Hashable:
    try:
        return pattern.fitted(c_in, 1).num_kept_channels(c_in) % step == 0
    except ValueError:  # it does not fit so many channels
        return None


def _gives_stairs(pattern: Pattern, c_out: int, step: int) -> Hashable:
    run = max(1, pattern.m if pattern.shared else 1)
    tile_out = pattern.fitted(run, c_out).tile_out
    return _ONE_ROW if tile_out == c_out else tile_out % step == 0


def _alike(kinds: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    found: dict[Hashable, list[int]] = {}
    for position, kind in enumerate(kinds):
        found.setdefault(kind, []).append(position)
    return found
