"""Weight-stationary cores: dense, 2:4, flexible N:M, CRISP-style.

A pass multiplies `rows` output channels x `lanes` kept input channels with one output position a cycle. Weights are
read from shared memory once for every `columns` positions, activations once for every `rows` output channels.
"""

from dataclasses import dataclass
from math import ceil

from lut.analytic.accelerator import Accelerator
from lut.analytic.cost import Work
from lut.analytic.gemm import Gemm
from lut.metadata import metadata_bits, num_kept_in_runs, num_tiles
from lut.pattern import Pattern

BITMAP_BYTES = 1 / 8
"""Of one activation, when activations travel compressed."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What a core makes of a pattern on one convolution group."""

    depth: float
    """Weights of an output channel that are stored and multiplied."""
    index_bytes: float
    """Indices of all of the group's weights."""
    input_share: float
    """Activations that `rows` output channels together read, of the depth."""


def array_works(accelerator: Accelerator, gemm: Gemm, pattern: Pattern, activation_density: float) -> list[Work]:
    """Return the ways to run the layer, of which the compiler takes the best: as if dense, and compressed where the core can."""
    ways = [Kept(depth=gemm.depth, index_bytes=0.0, input_share=1.0)]
    usable = _usable(accelerator, pattern)
    if not usable.is_dense:
        ways.append(_kept(accelerator, gemm, usable))
    return [_work(accelerator, gemm, kept, activation_density) for kept in ways]


def _usable(accelerator: Accelerator, pattern: Pattern) -> Pattern:
    """Return the part of a pattern the core can profit from; a mask of the whole obeys that part too."""
    tiles = pattern.tile_out and accelerator.skips_tiles
    n, m, shared = (pattern.n, pattern.m, pattern.shared) if pattern.m > 1 and accelerator.run else (1, 1, False)
    if m > 1 and accelerator.run != (0, 0) and accelerator.run is not None:
        n, m, shared = (*_within(pattern, *accelerator.run), False)
    if not tiles:
        return Pattern(n=n, m=m)
    return Pattern(
        tile_out=pattern.tile_out,
        tile_in=pattern.tile_in,
        share=pattern.share,
        per_tap=pattern.per_tap,
        n=n,
        m=m,
        shared=shared,
    )


def _within(pattern: Pattern, n: int, m: int) -> tuple[int, int]:
    """Return (n, m) if every mask of the pattern keeps at most n of each m channels, else (1, 1)."""
    if pattern.m % m == 0:
        return (n, m) if pattern.n <= n else (1, 1)
    if m % pattern.m == 0:
        return (n, m) if pattern.n * (m // pattern.m) <= n else (1, 1)
    return 1, 1


def _kept(accelerator: Accelerator, gemm: Gemm, pattern: Pattern) -> Kept:
    pattern = pattern.fitted(gemm.channels, gemm.rows, gemm.taps)
    share = input_share = 1.0
    if pattern.tile_out:
        share = pattern.num_kept_tiles(gemm.channels, gemm.taps) / num_tiles(pattern, gemm.channels, gemm.taps)
        # Block-rows thinner than the array keep different tiles: at worst each fetches its own.
        block_rows = ceil(min(accelerator.rows, gemm.rows) / pattern.tile_out)
        input_share = min(1.0, share * block_rows)
    return Kept(
        depth=share * gemm.taps * num_kept_in_runs(pattern, gemm.channels),
        index_bytes=metadata_bits(pattern, gemm.channels, gemm.rows, gemm.taps) / 8,
        input_share=input_share,
    )


def _work(accelerator: Accelerator, gemm: Gemm, kept: Kept, activation_density: float) -> Work:
    row_passes = ceil(gemm.rows / accelerator.rows)
    column_passes = ceil(gemm.columns / accelerator.columns)
    steps = ceil(kept.depth / accelerator.lanes)
    weights = gemm.groups * gemm.rows * kept.depth
    indices = gemm.groups * kept.index_bytes
    macs = weights * gemm.columns
    bitmap = BITMAP_BYTES if accelerator.compressed_activations and activation_density + BITMAP_BYTES < 1 else 0.0
    value = activation_density if bitmap else 1.0
    activations = gemm.groups * gemm.depth * kept.input_share * gemm.columns * row_passes
    # The array sums over its lanes; each step adds one partial sum of every output, and each output leaves once.
    updates = gemm.output_values * steps
    return Work(
        macs=macs,
        compute_cycles=gemm.groups * row_passes * steps * gemm.columns,
        operand_bytes=macs + macs / max(weights, 1) * indices,
        rf_reads=updates - gemm.output_values,
        rf_writes=updates + gemm.output_values,
        smem_reads=weights * column_passes + activations * value,
        smem_writes=weights + gemm.input_values * value,
        index_reads=indices * column_passes + activations * bitmap,
        index_writes=indices + gemm.input_values * bitmap,
        dram_reads=weights + gemm.input_values * value + gemm.residual_values,
        dram_index_reads=indices + gemm.input_values * bitmap,
        dram_writes=gemm.output_values,
    )
