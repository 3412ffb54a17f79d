"""Accelerators that are not on the desk, as numbers: sparse tensor cores of the Sparseloop study and a CRISP-style core.

Source of every number, unless its docstring says otherwise: the published artefact of Sparseloop (Wu et al., MICRO
2022, arXiv 2205.05826), case study "sparse tensor cores", int8 design points: its architecture files (sizes,
bandwidths, array), its energy tables (pJ an access) and the loop nests of its mappings (what is read how often).
Nothing is fitted to the study's results.

The study's tables mix two technologies: the dense core's energies were estimated for 65 nm, the sparse cores' for
45 nm (its own plot says so). So a sparse core comes out 1.10 times better than the dense one at density 1.0, where it
does the same work. The reference points contain this, and so does every energy gain relative to `DENSE`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Energies:
    """Dynamic energy in pJ; leakage and control count nothing."""

    mac: float
    """One int8 multiply-accumulate."""
    operand: float
    """One byte in or out of the registers beside the multipliers."""
    rf_read: float
    """One partial sum out of the register file; int8, as in the study."""
    rf_write: float
    smem_read: float
    """One byte out of shared memory (256 KB); the study's access of 64 bytes, divided by 64."""
    smem_write: float
    index_read: float = 0.0
    """One byte of indices or bitmaps out of their own 64 KB beside shared memory (an access of 8 bytes, by 8)."""
    index_write: float = 0.0
    dram: float = 64.0
    """One byte to or from LPDDR4: 512 pJ an access of 8 bytes."""
    dram_index: float = 0.0
    """One byte of indices or bitmaps from DRAM. The study charges nothing, and so do we, to stay comparable; at the 64
    of other bytes the sparse cores' energy gains would be 1 to 6 % lower."""


DENSE_ENERGIES = Energies(
    mac=0.44688,
    operand=0.02435,
    rf_read=3.1647,
    rf_write=3.20183,
    smem_read=536.05005 / 64,
    smem_write=599.806 / 64,
)
"""65 nm, as the study has it for the dense core."""
SPARSE_ENERGIES = Energies(
    mac=0.5608,
    operand=0.072,
    rf_read=1.65889,
    rf_write=1.67589,
    smem_read=285.71464 / 64,
    smem_write=316.96744 / 64,
    index_read=25.8695 / 8,
    index_write=19.6486 / 8,
)
"""45 nm, as the study has it for its sparse cores."""


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One core: an array of multipliers under a register file, a shared memory and a DRAM, and what it can skip.

    The array is four subpartitions of 16 x 16: `rows` output channels x `lanes` input channels, partial sums of
    `columns` output positions stay in the register file while weights stay beside the multipliers.
    """

    name: str
    energies: Energies
    clock_mhz: float = 1000.0
    """The study reports cycles and rates them at 1 GHz; no core of it was built."""
    rows: int = 64
    lanes: int = 16
    columns: int = 128
    smem_bytes_per_cycle: float = 42.0
    """Read bandwidth of shared memory; weights, activations and indices share it."""
    dram_bytes_per_cycle: float = 32.0
    """Read, and as much to write. (The study's dense core writes 16; it is never the limit there, and one number serves all.)"""
    vector_lanes: int = 64
    """Operations a cycle of everything that is no matrix product (pools, sums, depthwise). Assumption of ours: the study has none."""
    run: tuple[int, int] | None = None
    """(N, M): the one N:M this core multiplies compressed, (0, 0) for any, None for none."""
    skips_tiles: bool = False
    """True: tiles that a block-row dropped are neither multiplied nor fetched, nor are the activations only they read."""
    compressed_activations: bool = False
    """True: activations travel as their nonzero values and a bitmap of one bit each."""
    dual_side: bool = False
    """True: outer products over the nonzeros of both sides, any mask; see `lut.analytic.dual_side`."""


DENSE = Accelerator(name="dense tensor core", energies=DENSE_ENERGIES)
"""The baseline: every weight and every activation is fetched and multiplied."""
RIGID = Accelerator(name="2:4 tensor core", energies=SPARSE_ENERGIES, run=(2, 4))
"""NVIDIA's form (Mishra et al., arXiv 2104.08378): 2:4 runs in half the cycles, nothing runs in fewer."""
FLEXIBLE = Accelerator(name="flexible N:M core", energies=SPARSE_ENERGIES, run=(0, 0))
"""The study's extension of it to any N:M. Activations of all M channels of a run still travel, so it ends at the
bandwidth of shared memory: 42 bytes a cycle over the 16 a dense core reads, 2.6 times at best."""
FLEXIBLE_COMPRESSED = Accelerator(
    name="flexible N:M core, compressed activations",
    energies=SPARSE_ENERGIES,
    run=(0, 0),
    compressed_activations=True,
)
"""The same with compressed activations: the study's answer to that bottleneck."""
DUAL_SIDE = Accelerator(
    name="dual-side sparse core",
    energies=Energies(
        mac=0.5608,
        operand=0.49218 / 2,
        rf_read=1.65889,
        rf_write=1.67589,
        smem_read=285.71464 / 64,
        smem_write=316.96744 / 64,
        index_read=25.8695 / 8,
        index_write=19.6486 / 8,
    ),
    compressed_activations=True,
    dual_side=True,
)
"""Wang et al., ISCA 2021 (arXiv 2105.09564), as the study models it. Skips zeros on both sides and pays for it in the
register file: no sum over lanes, every product is an update."""
CRISP = Accelerator(name="CRISP-style core", energies=SPARSE_ENERGIES, run=(0, 0), skips_tiles=True)
"""CRISP (arXiv 2311.14272, section on hardware): any N:M inside blocks whose indices select the activations to fetch.
Same array, memories and energies as the flexible core (the paper builds on the same study); the block selection itself
costs its indices and nothing else. Assumption of ours: nothing here was checked against the paper's simulator."""

ACCELERATORS = (DENSE, RIGID, FLEXIBLE, FLEXIBLE_COMPRESSED, DUAL_SIDE, CRISP)
DEVICES = {
    "analytic/dense": DENSE,
    "analytic/2-4": RIGID,
    "analytic/n-m": FLEXIBLE,
    "analytic/n-m-compressed": FLEXIBLE_COMPRESSED,
    "analytic/dual-side": DUAL_SIDE,
    "analytic/crisp": CRISP,
}
"""Every core by the id a device has."""
