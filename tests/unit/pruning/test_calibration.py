"""Whole networks beside their sums: a fit takes the place of the one before."""

from dataclasses import replace

import pytest

from lut.calibrate import Calibration
from lut.profile import DeviceProfile
from lut.signature import OpSignature
from lut.table import Entry, LatencyTable
from pruning.calibration import DOUBTFUL, Predict, calibrated, doubtful, masks_calibrated, plain

PROFILE = DeviceProfile(hardware="test", runtime="none", runtime_version="0", threads=1, batch=1)
SIGNATURE = OpSignature(kind="conv", height=4, width=4)
WIDE = replace(SIGNATURE, height=8)
LOWERED = replace(SIGNATURE, pattern="4x1@1/2")
ENTRIES = {
    signature: {(8, 8): Entry(p50_us=us, p90_us=us, num_samples=9)}
    for signature, us in ((SIGNATURE, 10.0), (WIDE, 90.0), (LOWERED, 4.0))
}
TABLE = LatencyTable(profile=PROFILE, entries=ENTRIES, scale=3.0, operator_offset_us=7.0)


def network_of(num: int, signature: OpSignature = SIGNATURE) -> Predict:
    """Return the word of a table on a network of so many equal operators."""
    return lambda table: table.predict_us([(signature, 8, 8)] * num)


def test_a_fit_replaces_the_one_before_and_its_residual_is_kept() -> None:
    networks = [network_of(10), network_of(20), network_of(40), network_of(12, WIDE)]
    table = calibrated(TABLE, networks, [10 * 12.5, 20 * 12.5, 40 * 12.5, 12 * 96.5])
    assert (table.scale, table.operator_offset_us) == (pytest.approx(1.05, rel=0.005), pytest.approx(2.0, rel=0.05))
    assert table.latency_us(SIGNATURE, 8, 8) == pytest.approx(12.5, rel=0.005)
    assert table.residual == pytest.approx(0.0, abs=0.002)
    off = calibrated(table, networks[:3], [100.0, 240.0, 400.0])
    assert LatencyTable.from_json(off.to_json()).residual == off.residual > 0 or off.residual == 0
    assert plain(off).entries == TABLE.entries and plain(off).predict_us([(SIGNATURE, 8, 8)]) == 10.0
    assert off.merge(LatencyTable(profile=PROFILE, entries={})).residual == off.residual


def test_masked_layers_take_in_networks_what_those_tell() -> None:
    table = replace(TABLE, scale=2.0, operator_offset_us=1.0, masked_scale=1.7)
    networks = [[(SIGNATURE, 8, 8), *[(LOWERED, 8, 8)] * num] for num in (4, 8, 20)]
    told = [lambda table, network=network: table.predict_us(network) for network in networks]
    # By themselves 21 and 9 a lowered layer, here 11 a layer, and one network was disturbed.
    fitted = masks_calibrated(table, told, [21.0 + 4 * 11.0, 21.0 + 8 * 11.0, 3 * (21.0 + 20 * 11.0)])
    assert fitted.masked_scale == pytest.approx(1.25, rel=0.02)
    assert fitted.latency_us(LOWERED, 8, 8) == pytest.approx(11.0, rel=0.02)
    assert fitted.latency_us(SIGNATURE, 8, 8) == 21.0, "layers without a pattern cost what they did"
    assert masks_calibrated(table, told, [1.0] * 3).masked_scale == 0.5, "no device is as fast as that"
    # Networks in which masked layers are hardly anything hardly tell.
    large = lambda table: table.predict_us([(SIGNATURE, 8, 8)] * 100 + [(LOWERED, 8, 8)])  # noqa: E731
    assert masks_calibrated(table, [large], [1.05 * 2109.0]).masked_scale == pytest.approx(1.0, abs=0.02)
    # Who measures no masked network leaves what an earlier measurement found.
    assert masks_calibrated(table, [], []) == table
    assert calibrated(fitted, [network_of(1)], [12.0]).masked_scale == fitted.masked_scale
    again = LatencyTable.from_json(fitted.to_json())
    assert (
        again == fitted and again.merge(LatencyTable(profile=PROFILE, entries={})).masked_scale == fitted.masked_scale
    )
    assert fitted.calibrated(Calibration(scale=2.0)).latency_us(LOWERED, 8, 8) == pytest.approx(22.0, rel=0.02)
    assert plain(fitted).latency_us(LOWERED, 8, 8) == 4.0


def test_a_table_is_doubtful_when_it_is_noisy_and_networks_do_not_agree() -> None:
    calm, restless = replace(TABLE, residual=2 * DOUBTFUL), replace(TABLE, residual=2 * DOUBTFUL, drift=0.2)
    assert not doubtful(calm) and doubtful(restless)
    assert not doubtful(replace(restless, residual=0.0))
