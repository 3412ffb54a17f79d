"""What a network needs to know of a device: grids of channel counts, one per operator signature."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from lut.metadata import num_kept_in_runs
from lut.pattern import Pattern
from lut.signature import OpSignature


@dataclass(frozen=True, kw_only=True)
class GridRequest:
    """The channel counts at which one signature will be looked up.

    A table that covers a request answers every pair by itself or by interpolation, so `measure_table` need not time
    them all.
    """

    signature: OpSignature
    c_ins: tuple[int, ...]
    """Input channels, >= 1."""
    c_outs: tuple[int, ...]
    """Output channels, >= 1."""
    paired: bool = False
    """True when output and input channels are one number (depthwise, add, pools): `c_ins == c_outs` and only the
    diagonal is asked for.
    """
    count: int = 1
    """Operators of the network with this signature; says how much memory one inference touches, and with that how
    cold weights are.
    """

    def __post_init__(self) -> None:
        """Raise ValueError for an empty axis, a count below 1, or a paired request with two different axes."""
        if not self.c_ins or not self.c_outs or min(*self.c_ins, *self.c_outs) < 1:
            raise ValueError(f"a grid request needs channel counts of at least 1, got {self.c_ins} x {self.c_outs}")
        if self.paired and self.c_ins != self.c_outs:
            raise ValueError("a paired request has the same input and output channels")

    def pairs(self) -> list[tuple[int, int]]:
        """Return every (c_in, c_out) asked for, sorted."""
        if self.paired:
            return [(c, c) for c in sorted(set(self.c_ins))]
        return list(product(sorted(set(self.c_ins)), sorted(set(self.c_outs))))


def merge_requests(requests: Iterable[GridRequest]) -> list[GridRequest]:
    """Return one request per (signature, paired) with the union of the channel counts and the sum of `count`, in
    order of first appearance.

    A network has many operators of one signature; together they are measured once.
    """
    unions: dict[tuple[OpSignature, bool], tuple[set[int], set[int], list[int]]] = {}
    for request in requests:
        c_ins, c_outs, counts = unions.setdefault((request.signature, request.paired), (set(), set(), []))
        c_ins.update(request.c_ins)
        c_outs.update(request.c_outs)
        counts.append(request.count)
    return [
        GridRequest(
            signature=signature, c_ins=_ascending(c_ins), c_outs=_ascending(c_outs), paired=paired, count=sum(counts)
        )
        for (signature, paired), (c_ins, c_outs, counts) in unions.items()
    ]


def _ascending(counts: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(counts))


def num_macs(signature: OpSignature, c_in: int, c_out: int) -> int:
    """Return the multiply-accumulates of one operator on one image; operators without weights count one per output
    value. Raises ValueError for a pattern that does not fit the layer.
    """
    height, width = output_size(signature)
    area = height * width
    if signature.kind in ("conv", "depthwise"):
        taps = signature.kernel[0] * signature.kernel[1]
        fan_in = 1 if signature.kind == "depthwise" else max(1, fan_in_groups(signature, c_in, c_out)[0])
        return area * c_out * fan_in * taps
    if signature.kind == "linear":
        return area * fan_in_groups(signature, c_in, c_out)[0] * c_out
    if signature.kind in ("max_pool", "avg_pool"):
        return area * c_out * signature.kernel[0] * signature.kernel[1]
    return signature.height * signature.width * max(c_in, c_out)


def num_weights(signature: OpSignature, c_in: int, c_out: int) -> int:
    """Return the numbers in the operator's weight tensor; 0 for an operator that has none. Errors as in `num_macs`.

    A weight that is masked but not lowered is as large as a dense one.
    """
    taps = signature.kernel[0] * signature.kernel[1]
    dense = not signature.pattern or not Pattern.parse(signature.pattern).lowerable
    match signature.kind:
        case "conv" | "linear" if dense:
            return c_in * c_out * taps // signature.groups
        case "conv" | "linear":
            return fan_in_groups(signature, c_in, c_out)[0] * c_out * taps
        case "depthwise":
            return c_out * taps
        case _:
            return 0


def fan_in_groups(signature: OpSignature, c_in: int, c_out: int) -> tuple[int, int]:
    """Return (input channels that each output channel of a `conv` or `linear` reads, groups of its convolution).

    For a lowered layer: the length of a block-row's list, and its block-rows. Raises ValueError for a pattern that does
    not fit the layer.
    """
    if not signature.pattern:
        return c_in // signature.groups, signature.groups
    pattern = Pattern.parse(signature.pattern)
    fitted = pattern.fitted(c_in, c_out)
    if not pattern.lowerable:
        return num_kept_in_runs(pattern, fitted.num_kept_tiles(c_in) * fitted.tile_in if fitted.tile_out else c_in), 1
    return fitted.num_kept_channels(c_in), c_out // fitted.tile_out


def output_size(signature: OpSignature) -> tuple[int, int]:
    """Return (height, width) of the operator's output map."""
    if signature.kind == "global_pool":
        return 1, 1
    sizes: Sequence[int] = (signature.height, signature.width)
    if signature.kind == "gather":
        return -(-sizes[0] // signature.stride[0]), -(-sizes[1] // signature.stride[1])
    if signature.kind not in ("conv", "depthwise", "max_pool", "avg_pool"):
        return signature.height, signature.width
    spans = [d * (k - 1) + 1 for d, k in zip(signature.dilation, signature.kernel, strict=True)]
    out = [
        (n + 2 * p - span) // s + 1
        for n, p, span, s in zip(sizes, signature.padding, spans, signature.stride, strict=True)
    ]
    return out[0], out[1]
