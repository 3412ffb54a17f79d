"""The dual-side sparse core: outer products over the nonzeros of weights and activations.

For every input channel and tap a subpartition multiplies the nonzero weights of `long` (or `short`) output channels
with the nonzero activations of `short` (or `long`) positions, 16 x 16 a cycle; four subpartitions share operands
2 x 2. So a step costs E[ceil(a / 16)] * E[ceil(b / 16)] cycles, a and b binomial: zeros spread evenly, which is what
the study assumes (its own expectations lie up to 6 % a side lower). Both sides travel as values and bitmaps where that is
shorter. Source: Wang et al., ISCA 2021, in the mapping of Sparseloop's artefact.
"""

from functools import lru_cache
from math import ceil, comb

from lut.analytic.accelerator import Accelerator
from lut.analytic.cost import Work
from lut.analytic.gemm import Gemm

SIDE = 16
"""Multipliers of a subpartition: SIDE x SIDE."""
SHAPES = ((64, 32), (32, 64))
"""Output channels x positions a subpartition holds; the mapper takes the better one."""


def dual_side_works(accelerator: Accelerator, gemm: Gemm, density: float, activation_density: float) -> list[Work]:
    """Return the layer's work in both shapes; `density` is that of the weights, wherever they lie."""
    return [_work(gemm, shape, density, activation_density) for shape in SHAPES]


def _work(gemm: Gemm, shape: tuple[int, int], density: float, activation_density: float) -> Work:
    rows, columns = min(shape[0], gemm.rows), min(shape[1], gemm.columns)
    row_passes, column_passes = ceil(gemm.rows / (2 * rows)), ceil(gemm.columns / (2 * columns))
    step = expected_slots(rows, density) * expected_slots(columns, activation_density)
    macs = gemm.macs * density * activation_density
    weight, weight_bitmap = _compressed(density)
    value, bitmap = _compressed(activation_density)
    weights = gemm.groups * gemm.rows * gemm.depth
    weight_reads = weights * column_passes
    activation_reads = gemm.groups * gemm.depth * gemm.columns * row_passes
    return Work(
        macs=macs,
        compute_cycles=gemm.groups * row_passes * column_passes * gemm.depth * step,
        operand_bytes=2 * macs / SIDE,
        rf_reads=max(0.0, macs - gemm.output_values),
        rf_writes=macs + gemm.output_values,
        smem_reads=weight_reads * weight + activation_reads * value,
        smem_writes=weights * weight + gemm.input_values * value,
        index_reads=weight_reads * weight_bitmap + activation_reads * bitmap,
        index_writes=weights * weight_bitmap + gemm.input_values * bitmap,
        dram_reads=weights * weight + gemm.input_values * value + gemm.residual_values,
        dram_index_reads=weights * weight_bitmap + gemm.input_values * bitmap,
        dram_writes=gemm.output_values,
    )


def _compressed(density: float) -> tuple[float, float]:
    """Return bytes of values and of bitmap per number: whichever form is shorter."""
    return (density, 1 / 8) if density + 1 / 8 < 1 else (1.0, 0.0)


@lru_cache(maxsize=4096)
def expected_slots(count: int, density: float) -> float:
    """Return E[ceil(x / SIDE)] for x ~ Binomial(count, density): cycles one side of an outer product takes."""
    return sum(comb(count, x) * density**x * (1 - density) ** (count - x) * ceil(x / SIDE) for x in range(1, count + 1))
