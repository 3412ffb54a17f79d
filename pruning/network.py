"""The traced network and its coupling groups: the data every other module of this room works on.

Letters: u = a unit of a coupling group (channels that live and die together), C = channels of a tensor.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import fx

from lut.signature import OpSignature

Widths = Mapping[str, int]
"""Kept units of each coupling group, by group id."""
Keep = Mapping[str, np.ndarray]
"""Indices of the kept units of each coupling group, int64; a group that is absent stays whole.

Ascending, or in the order in which `slim` lets them lie: the r-th named takes the place of the r-th smallest.
"""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Where the units of a coupling group sit on one axis of one module's parameters."""

    module: str
    """Dotted name of the module in `Network.module`."""
    axis: str
    """`out`: weight axis 0 and bias of a conv/linear; `in`: its input channels; `channel`: every per-channel tensor (norm, depthwise, PReLU)."""
    index: np.ndarray
    """int64 [units, k]: channel positions of unit u along that axis (k > 1 after flatten, or in grouped convolutions)."""


@dataclass(frozen=True, kw_only=True)
class CouplingGroup:
    """Output channels that must be pruned together, as `units` interchangeable units."""

    id: str
    """Name of the first layer that produces it; stable between runs."""
    units: int
    slots: tuple[Slot, ...]
    frozen: str = ""
    """Why it stays dense (a sentence with the blocking operator), or empty when it may be pruned."""


@dataclass(frozen=True, kw_only=True)
class ChannelCount:
    """Channels of one tensor as a function of widths: `fixed + sum of multiplicity * width`."""

    fixed: int = 0
    terms: tuple[tuple[str, int], ...] = ()
    """(group id, multiplicity), one entry a group."""

    def at(self, widths: Widths) -> int:
        """Return the channel count when group g keeps `widths[g]` units."""
        return self.fixed + sum(times * widths[group] for group, times in self.terms)


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator of the network that costs time, with the channel counts that change its cost."""

    name: str
    """Node name in the traced graph (the producing node; what is fused into it has no operator of its own)."""
    signature: OpSignature
    c_in: ChannelCount
    c_out: ChannelCount


@dataclass(frozen=True, kw_only=True)
class Network:
    """A traced network in eval mode: an fx graph of modules and functions, every node with its shape in `node.meta["shape"]`."""

    module: fx.GraphModule
    input_shape: tuple[int, int, int]
    """Channels, height, width of one image."""
    num_outputs: int
    """Logits of the head."""
