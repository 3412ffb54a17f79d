"""Latency and energy of one operator on an accelerator that exists as a model only."""

from math import ceil

from lut.analytic.accelerator import Accelerator
from lut.analytic.array import array_works
from lut.analytic.cost import Cost, Work, cost
from lut.analytic.dual_side import dual_side_works
from lut.analytic.gemm import KINDS, as_gemm
from lut.metadata import num_kept_in_runs, num_tiles
from lut.pattern import Pattern
from lut.request import num_macs, output_size
from lut.signature import OpSignature

ACTIVATION_DENSITY = 0.51
"""Share of activations that are not zero: mean of the study's four ResNet-50 layers (0.82, 0.56, 0.44, 0.27), weighted
by their multiply-accumulates. Typical of networks with ReLU; cores without zero skipping ignore it."""
DENSE_PATTERN = Pattern()


def operator_cost(
    accelerator: Accelerator,
    signature: OpSignature,
    c_in: int,
    c_out: int,
    *,
    pattern: Pattern = DENSE_PATTERN,
    activation_density: float = ACTIVATION_DENSITY,
    batch: int = 1,
) -> Cost:
    """Return what one operator takes on `accelerator`, in int8.

    Convolutions and linear layers are matrix products with weights of `pattern`, or of the signature's own where it has
    one: these cores need no lowering, they take the mask as it is. The pattern is fitted to the layer first, and of the ways to run it
    the fastest counts (then the one of least energy), so no pattern is ever slower than dense. Every map and every
    weight crosses DRAM once. Other operators run on the vector lanes, and their pattern is ignored. Raises ValueError
    for an activation density outside [0, 1], or a pattern that does not fit the layer.
    """
    if not 0 <= activation_density <= 1:
        raise ValueError(f"a density is in [0, 1], got {activation_density}")
    if signature.kind not in KINDS:
        return cost(accelerator, _vector_work(accelerator, signature, c_in, c_out, batch))
    if signature.pattern:
        pattern = Pattern.parse(signature.pattern)
    gemm = as_gemm(signature, c_in, c_out, batch)
    if accelerator.dual_side:
        densities = {1.0, density(pattern, gemm.channels, gemm.rows, gemm.taps)}
        works = [work for d in densities for work in dual_side_works(accelerator, gemm, d, activation_density)]
    else:
        works = array_works(accelerator, gemm, pattern, activation_density)
    return min((cost(accelerator, work) for work in works), key=lambda c: (c.cycles, c.energy_uj))


def energy_uj(
    accelerator: Accelerator,
    signature: OpSignature,
    c_in: int,
    c_out: int,
    *,
    pattern: Pattern = DENSE_PATTERN,
    activation_density: float = ACTIVATION_DENSITY,
    batch: int = 1,
) -> float:
    """Return the energy of one operator in microjoules: a figure of the model (see `operator_cost`), not a measurement."""
    return operator_cost(
        accelerator, signature, c_in, c_out, pattern=pattern, activation_density=activation_density, batch=batch
    ).energy_uj


def density(pattern: Pattern, c_in: int, c_out: int, num_taps: int = 1) -> float:
    """Return the share of a layer's weights that a pattern keeps once it is fitted. Raises ValueError where it does not fit."""
    pattern = pattern.fitted(c_in, c_out, num_taps)
    share = 1.0
    if pattern.tile_out:
        share = pattern.num_kept_tiles(c_in, num_taps) / num_tiles(pattern, c_in, num_taps)
    return share * num_kept_in_runs(pattern, c_in) / c_in


def _vector_work(accelerator: Accelerator, signature: OpSignature, c_in: int, c_out: int, batch: int) -> Work:
    height, width = output_size(signature)
    reads = signature.height * signature.width * c_in * batch
    if signature.kind == "add" or signature.residual:
        reads += height * width * c_out * batch
    writes = height * width * c_out * batch
    operations = num_macs(signature, c_in, c_out) * batch
    return Work(
        macs=operations,
        compute_cycles=ceil(operations / accelerator.vector_lanes),
        operand_bytes=operations,
        rf_reads=0.0,
        rf_writes=writes,
        smem_reads=reads,
        smem_writes=reads,
        index_reads=0.0,
        index_writes=0.0,
        dram_reads=reads,
        dram_index_reads=0.0,
        dram_writes=writes,
    )
