"""What running one operator takes: multiplications, bytes at every level, and from them cycles and energy.

Latency is a roofline: the slowest of multiplying, reading shared memory, reading DRAM and writing DRAM, all of which
overlap. Energy is the sum over all accesses (Sparseloop, arXiv 2205.05826).
"""

from dataclasses import dataclass

from lut.analytic.accelerator import Accelerator


@dataclass(frozen=True, kw_only=True)
class Work:
    """Counts of one operator on one accelerator; bytes unless named otherwise."""

    macs: float
    """Multiply-accumulates carried out."""
    compute_cycles: float
    """Cycles of the multipliers, idle ones of a partly filled array included."""
    operand_bytes: float
    rf_reads: float
    rf_writes: float
    smem_reads: float
    smem_writes: float
    index_reads: float
    """Bytes of indices and bitmaps out of shared memory; they share its bandwidth."""
    index_writes: float
    dram_reads: float
    dram_index_reads: float
    dram_writes: float


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Latency and energy of one operator on one accelerator, with the limits it came from."""

    cycles: float
    compute_cycles: float
    smem_cycles: float
    dram_cycles: float
    latency_us: float
    energy_uj: float
    macs: float
    """Multiply-accumulates carried out: what is skipped does not count."""


def cost(accelerator: Accelerator, work: Work) -> Cost:
    """Return what `work` takes: cycles = max(compute, shared memory, DRAM), energy = sum of accesses."""
    e = accelerator.energies
    smem_cycles = (work.smem_reads + work.index_reads) / accelerator.smem_bytes_per_cycle
    dram_cycles = max(work.dram_reads + work.dram_index_reads, work.dram_writes) / accelerator.dram_bytes_per_cycle
    cycles = max(work.compute_cycles, smem_cycles, dram_cycles)
    energy_pj = (
        work.macs * e.mac
        + work.operand_bytes * e.operand
        + work.rf_reads * e.rf_read
        + work.rf_writes * e.rf_write
        + work.smem_reads * e.smem_read
        + work.smem_writes * e.smem_write
        + work.index_reads * e.index_read
        + work.index_writes * e.index_write
        + (work.dram_reads + work.dram_writes) * e.dram
        + work.dram_index_reads * e.dram_index
    )
    return Cost(
        cycles=cycles,
        compute_cycles=work.compute_cycles,
        smem_cycles=smem_cycles,
        dram_cycles=dram_cycles,
        latency_us=cycles / accelerator.clock_mhz,
        energy_uj=energy_pj / 1e6,
        macs=work.macs,
    )
