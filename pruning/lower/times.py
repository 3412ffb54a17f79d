"""What each masked layer takes by itself, dense and lowered: a first guess at which are worth lowering."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from lut.measure.tables import measure_points
from lut.pattern import Pattern
from lut.profile import DeviceProfile
from lut.signature import OpSignature
from pruning.groups import coupling_groups
from pruning.lower.lists import BlockRows, lists_of
from pruning.lower.rewrite import kept_dense
from pruning.masked import Masks
from pruning.network import Network
from pruning.operators import operators

Point = tuple[OpSignature, int, int]


def layer_times_us(network: Network, masks: Masks, profile: DeviceProfile) -> dict[str, tuple[float, float]]:
    """Return (dense, lowered) p50 in microseconds of every layer of `masks` that `lower` rewrites, in
    `profile`'s runtime.

    Isolated operators (`lut.measure.isolate`), every signature once; lists are as long as the layer's longest. Layers
    whose last block-row is smaller have no entry. Raises ValueError when this machine is not `profile`'s.
    """
    groups = coupling_groups(network)
    full = {group.id: group.units for group in groups}
    targets = {node.name: str(node.target) for node in network.module.graph.nodes if node.op == "call_module"}
    points: dict[str, tuple[Point, Point]] = {}
    dense_too: list[Point] = []
    lowerable = set(masks) - set(kept_dense(network, masks))
    for op in operators(network, groups):
        point = op.signature, op.c_in.at(full), op.c_out.at(full)
        dense_too.append(point)
        if (name := targets.get(op.name, "")) in lowerable:
            rows = lists_of(masks[name])
            assert rows is not None
            if point[2] % rows.tile_out == 0:
                points[name] = point, (replace(op.signature, pattern=_pattern(rows, point[1])), *point[1:])
    return _timed(points, dense_too, profile)


def _timed(
    points: dict[str, tuple[Point, Point]], network: Sequence[Point], profile: DeviceProfile
) -> dict[str, tuple[float, float]]:
    # Each variant is measured with all operators of its network, whose number tells how cold weights are.
    lowered = [both[1] for both in points.values()]
    wanted = {point for both in points.values() for point in both}
    table = measure_points(profile, [point for point in (*network, *lowered) if point in wanted])
    return {name: (table.latency_us(*a), table.latency_us(*b)) for name, (a, b) in points.items()}


def _pattern(rows: BlockRows, c_in: int) -> str:
    return Pattern(tile_out=rows.tile_out, tile_in=1, share=Fraction(rows.longest, c_in)).id
