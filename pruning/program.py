"""A traced network as something to time in any runtime."""

from pathlib import Path

import onnx
from torch import nn
from torch.fx.experimental.optimization import fuse

from lut.measure.runtime import Program
from pruning.lower.semi_structured import semi_structured
from pruning.network import Network


def program(network: Network, model: onnx.ModelProto | Path, *, two_of_four: bool = False) -> Program:
    """Return the network as its ONNX form, `model`, and as a module of the same numbers, BatchNorm folded.

    With `two_of_four` the module's 2:4 weights are semi-structured: for runtimes that have a product for them. The
    network is copied for every run that is made of it.
    """

    def module() -> nn.Module:
        if two_of_four:
            return semi_structured(network).module
        return fuse(network.module, no_trace=True).eval().requires_grad_(False)

    source = model if isinstance(model, Path) else model.SerializeToString()
    return Program(onnx=source, module=module, input_shape=network.input_shape)
