"""Analytic accelerator profiles: held against published points, and sane where nothing is published."""

import sys
from dataclasses import replace
from itertools import pairwise
from math import ceil, comb
from subprocess import run

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lut.analytic import (
    ACCELERATORS,
    ACTIVATION_DENSITY,
    CRISP,
    DENSE,
    DEVICES,
    DUAL_SIDE,
    FLEXIBLE,
    FLEXIBLE_COMPRESSED,
    RIGID,
    RUNTIME,
    Accelerator,
    analytic_profile,
    analytic_table,
    density,
    energy_uj,
    operator_cost,
)
from lut.analytic.dual_side import expected_slots
from lut.analytic.reference import GEMMS, POINTS, gains, totals
from lut.pattern import Pattern
from lut.request import GridRequest, num_macs, num_weights, output_size
from lut.signature import OpSignature
from lut.table import LatencyTable, LutMiss
from secateur.schemas import ANALYTIC_DEVICES

CONV = OpSignature(kind="conv", height=28, width=28, kernel=(3, 3), padding=(1, 1))
RUNS = ("dense", "3:4", "2:4", "2:8", "1:8", "1:16")
TILES = ("dense", "64x64/tap@1/2", "64x64/tap@1/4", "64x64/tap@1/8", "64x64/tap@1/16")
PATTERNS = (*RUNS, "3:8", "2:4+64x64/tap@1/2", "2:4+16x16@1/4", "64x1@1/4", "2:4v+32x32@1/2", "1:4+16x16/tap@1/8")
layers = st.builds(
    lambda size, kernel, stride, c_in, c_out: (
        OpSignature(
            kind="conv",
            height=size,
            width=size,
            kernel=(kernel, kernel),
            stride=(stride, stride),
            padding=(kernel // 2, kernel // 2),
        ),
        c_in,
        c_out,
    ),
    st.integers(1, 60),
    st.sampled_from([1, 3]),
    st.sampled_from([1, 2]),
    st.sampled_from([16, 64, 96, 256, 512]),
    st.sampled_from([16, 64, 100, 256, 2048]),
)


@pytest.mark.parametrize(("accelerator", "weights", "speedup", "gain"), POINTS)
def test_every_published_point_is_reproduced_within_ten_per_cent(
    accelerator: Accelerator, weights: float, speedup: float, gain: float
) -> None:
    found_speedup, found_gain = gains(accelerator, weights)
    assert found_speedup == pytest.approx(speedup, rel=0.1)
    assert found_gain == pytest.approx(gain, rel=0.1)


@pytest.mark.parametrize(("accelerator", "weights", "speedup", "gain"), POINTS)
def test_one_activation_density_for_all_layers_reproduces_them_too(
    accelerator: Accelerator, weights: float, speedup: float, gain: float
) -> None:
    found_speedup, found_gain = gains(accelerator, weights, ACTIVATION_DENSITY)
    assert found_speedup == pytest.approx(speedup, rel=0.1)
    assert found_gain == pytest.approx(gain, rel=0.1)


def test_the_activation_density_is_the_mean_of_the_four_reference_layers_by_their_macs() -> None:
    macs = [rows * depth * columns for rows, depth, columns, _ in GEMMS]
    mean = sum(m * gemm[3] for m, gemm in zip(macs, GEMMS, strict=True)) / sum(macs)
    assert mean == pytest.approx(ACTIVATION_DENSITY, abs=0.005)


def test_the_dense_core_multiplies_1024_a_cycle_on_the_reference_layers() -> None:
    assert totals(DENSE, 1.0)[0] == sum(rows * depth * columns for rows, depth, columns, _ in GEMMS) / 1024


def test_a_bandwidth_bound_layer_by_hand() -> None:
    """512 x 256 x 1024 at 2:8: 8 column passes of weights and 3-bit indices, 8 row passes of activations, 42 B a cycle."""
    found = operator_cost(
        FLEXIBLE, OpSignature(kind="linear", height=1024, width=1), 256, 512, pattern=Pattern.parse("2:8")
    )
    weights = 8 * (512 * 64 + 512 * 64 * 3 / 8)
    activations = 8 * 256 * 1024
    assert found.cycles == found.smem_cycles == pytest.approx((weights + activations) / 42)
    assert found.compute_cycles == 512 * 64 * 1024 / 1024


def test_energy_of_the_dense_core_by_hand() -> None:
    """The first reference layer: 205.4 uJ, sum of the published statistics of its five levels."""
    found = energy_uj(DENSE, OpSignature(kind="linear", height=1024, width=1), 256, 512)
    published_pj = 59_979_218 + 3_293_734 + 53_425_791 + 10_011_047 + 20_022_093 + 8_388_608 + 16_777_216 + 33_554_432
    assert found == pytest.approx(published_pj / 1e6, rel=0.01)


def test_cycles_of_the_dual_side_core_stay_near_its_published_ones() -> None:
    """Cycles of single layers in the artefact's reference outputs: (layer, weight density, cycles)."""
    for index, weights, cycles in (
        (0, 0.25, 44_257),
        (0, 0.5, 78_640),
        (1, 0.25, 17_980),
        (2, 0.5, 51_197),
        (3, 0.25, 28_699),
        (3, 1.0, 48_875),
    ):
        rows, depth, columns, activations = GEMMS[index]
        found = operator_cost(
            DUAL_SIDE,
            OpSignature(kind="linear", height=columns, width=1),
            depth,
            rows,
            pattern=Pattern.parse({1.0: "dense", 0.5: "2:4", 0.25: "2:8"}[weights]),
            activation_density=activations,
        )
        assert found.cycles == pytest.approx(cycles, rel=0.12)


@given(layer=layers, accelerator=st.sampled_from(ACCELERATORS), family=st.sampled_from([RUNS, TILES]))
def test_fewer_weights_are_never_slower(
    layer: tuple[OpSignature, int, int], accelerator: Accelerator, family: tuple[str, ...]
) -> None:
    patterns = sorted((Pattern.parse(name) for name in family), key=lambda p: -_density(p, layer))
    cycles = [operator_cost(accelerator, *layer, pattern=pattern).cycles for pattern in patterns]
    assert all(after <= before * (1 + 1e-9) for before, after in pairwise(cycles))


@given(layer=layers, accelerator=st.sampled_from(ACCELERATORS), name=st.sampled_from(PATTERNS))
def test_no_layer_beats_its_roofline(layer: tuple[OpSignature, int, int], accelerator: Accelerator, name: str) -> None:
    signature, c_in, c_out = layer
    pattern = Pattern.parse(name)
    found = operator_cost(accelerator, signature, c_in, c_out, pattern=pattern)
    kept = _density(pattern, layer)
    effectual = num_macs(signature, c_in, c_out) * kept * (ACTIVATION_DENSITY if accelerator.dual_side else 1.0)
    height, width = output_size(signature)
    weight_bytes = num_weights(signature, c_in, c_out) * kept
    assert found.cycles >= effectual / 1024 * (1 - 1e-9)
    assert found.macs >= effectual * (1 - 1e-9)
    assert found.cycles >= height * width * c_out / accelerator.dram_bytes_per_cycle
    assert found.cycles >= weight_bytes / accelerator.dram_bytes_per_cycle * (1 - 1e-9)
    assert found.cycles >= weight_bytes / accelerator.smem_bytes_per_cycle * (1 - 1e-9)
    assert found.cycles == max(found.compute_cycles, found.smem_cycles, found.dram_cycles)
    assert found.latency_us == found.cycles / accelerator.clock_mhz


@given(layer=layers, name=st.sampled_from(PATTERNS))
def test_no_core_is_slower_than_the_dense_one_whatever_the_pattern(
    layer: tuple[OpSignature, int, int], name: str
) -> None:
    """The dual-side core may be, on shapes its outer products fill badly: it is the exception of the study too."""
    dense = operator_cost(DENSE, *layer).cycles
    for accelerator in (RIGID, FLEXIBLE, FLEXIBLE_COMPRESSED, CRISP):
        assert operator_cost(accelerator, *layer, pattern=Pattern.parse(name)).cycles <= dense


def test_the_dense_core_gains_from_no_pattern() -> None:
    assert len({operator_cost(DENSE, CONV, 128, 128, pattern=Pattern.parse(name)) for name in PATTERNS}) == 1


def test_the_rigid_core_gains_nothing_below_half_density() -> None:
    half = operator_cost(RIGID, CONV, 128, 128, pattern=Pattern.parse("2:4"))
    for name in ("1:4", "2:8", "1:16", "2:4+64x64@1/2", "2:4v+64x64@1/4"):
        assert operator_cost(RIGID, CONV, 128, 128, pattern=Pattern.parse(name)) == half


def test_the_rigid_core_runs_what_is_not_two_of_four_as_if_dense() -> None:
    dense = operator_cost(RIGID, CONV, 128, 128)
    for name in ("3:4", "4:8", "64x64@1/4", "64x1@1/8"):
        assert operator_cost(RIGID, CONV, 128, 128, pattern=Pattern.parse(name)) == dense
    assert operator_cost(RIGID, CONV, 128, 128, pattern=Pattern.parse("1:2")).cycles < dense.cycles


def test_only_a_core_that_skips_tiles_gains_from_them() -> None:
    tiles, runs = Pattern.parse("2:4+64x64/tap@1/4"), Pattern.parse("2:4")
    assert operator_cost(FLEXIBLE, CONV, 256, 256, pattern=tiles) == operator_cost(
        FLEXIBLE, CONV, 256, 256, pattern=runs
    )
    found = operator_cost(CRISP, CONV, 256, 256, pattern=tiles)
    assert found.compute_cycles == operator_cost(DENSE, CONV, 256, 256).compute_cycles / 8


def test_thin_block_rows_fetch_more_activations_than_block_rows_as_high_as_the_array() -> None:
    cycles = [
        operator_cost(CRISP, CONV, 256, 256, pattern=Pattern.parse(f"2:4+{b}x{b}/tap@1/8")).smem_cycles
        for b in (16, 32, 64)
    ]
    assert cycles[0] > cycles[1] > cycles[2]


def test_compressed_activations_and_skipping_profit_from_sparse_activations_and_other_cores_do_not() -> None:
    for accelerator in ACCELERATORS:
        few, many = (
            operator_cost(accelerator, CONV, 256, 256, pattern=Pattern.parse("2:8"), activation_density=a).cycles
            for a in (0.2, 0.9)
        )
        assert (few < many) == accelerator.compressed_activations


def test_a_classifier_on_one_image_is_bound_by_its_weights() -> None:
    signature = OpSignature(kind="linear", height=1, width=1)
    found = operator_cost(DENSE, signature, 2048, 1000)
    assert found.cycles == found.dram_cycles == pytest.approx((2048 * 1000 + 2048) / 32)


def test_channels_beyond_a_multiple_of_the_array_start_another_pass() -> None:
    cycles = [operator_cost(DENSE, CONV, 128, c_out).compute_cycles for c_out in (64, 65, 128)]
    assert cycles[1] == cycles[2] == 2 * cycles[0]


def test_convolution_groups_are_products_of_their_own() -> None:
    whole = operator_cost(DENSE, CONV, 64, 64)
    grouped = operator_cost(DENSE, replace(CONV, groups=4), 256, 256)
    assert grouped.compute_cycles == 4 * whole.compute_cycles


def test_expected_slots_are_an_expectation() -> None:
    assert expected_slots(64, 1.0) == 4
    assert expected_slots(64, 0.0) == 0
    assert expected_slots(32, 0.5) == pytest.approx(
        sum(comb(32, x) / 2**32 * ceil(x / 16) for x in range(33)), rel=1e-12
    )


@pytest.mark.parametrize(
    "kind", ["depthwise", "max_pool", "global_pool", "add", "mul", "activation", "concat", "gather"]
)
def test_other_operators_cost_time_and_energy_and_ignore_the_pattern(kind: str) -> None:
    signature = OpSignature(kind=kind, height=14, width=14)
    found = operator_cost(CRISP, signature, 64, 64, pattern=Pattern.parse("2:4"))
    assert found == operator_cost(CRISP, signature, 64, 64)
    assert found.cycles > 0
    assert found.energy_uj > 0


def test_a_density_outside_zero_to_one_is_refused() -> None:
    with pytest.raises(ValueError, match="density"):
        operator_cost(DUAL_SIDE, CONV, 64, 64, activation_density=1.5)


def test_a_table_covers_what_was_requested_with_the_figures_of_the_model() -> None:
    requests = [
        GridRequest(signature=CONV, c_ins=(16, 64), c_outs=(32, 96, 128)),
        GridRequest(
            signature=OpSignature(kind="add", height=28, width=28), c_ins=(32, 64), c_outs=(32, 64), paired=True
        ),
    ]
    pattern = Pattern.parse("2:4+16x16@1/2")
    table = analytic_table(CRISP, requests, pattern=pattern)
    assert not table.missing(requests)
    assert table.latency_us(CONV, 64, 96) == operator_cost(CRISP, CONV, 64, 96, pattern=pattern).latency_us
    assert LatencyTable.from_json(table.to_json()) == table
    with pytest.raises(LutMiss):
        table.latency_us(replace(CONV, height=7), 64, 64)


def test_a_signature_with_a_pattern_of_its_own_costs_what_that_pattern_costs() -> None:
    signature = replace(CONV, pattern="64x64@1/4")
    own = operator_cost(CRISP, signature, 256, 256, pattern=Pattern.parse("2:4"))
    assert own == operator_cost(CRISP, CONV, 256, 256, pattern=Pattern.parse("64x64@1/4"))
    assert operator_cost(DENSE, signature, 256, 256) == operator_cost(DENSE, CONV, 256, 256)


def test_an_analytic_table_is_never_taken_for_a_measured_one() -> None:
    profile = analytic_profile(CRISP)
    assert (profile.runtime, profile.hardware, profile.dtype) == (RUNTIME, CRISP.name, "int8")
    with pytest.raises(ValueError, match="profiles"):
        analytic_table(CRISP, []).merge(LatencyTable(profile=replace(profile, runtime="onnxruntime"), entries={}))


def test_every_core_pattern_and_activation_density_has_a_profile_of_its_own() -> None:
    profiles = [analytic_profile(a, pattern=Pattern.parse(p)) for a in ACCELERATORS for p in ("dense", "2:4")]
    profiles += [analytic_profile(CRISP, activation_density=0.3), analytic_profile(replace(CRISP, clock_mhz=800.0))]
    assert len({profile.fingerprint for profile in profiles}) == len(profiles)


def test_a_job_may_name_every_core_and_no_other() -> None:
    assert tuple(DEVICES) == ANALYTIC_DEVICES
    assert tuple(DEVICES.values()) == ACCELERATORS


def test_the_model_needs_no_torch() -> None:
    code = "import sys, lut.analytic, lut.analytic.reference; sys.exit('torch' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0


def _density(pattern: Pattern, layer: tuple[OpSignature, int, int]) -> float:
    signature, c_in, c_out = layer
    return density(pattern, c_in, c_out, signature.kernel[0] * signature.kernel[1])
