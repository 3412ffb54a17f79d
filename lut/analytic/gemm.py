"""Layers as matrix products: [M x K] weights times [K x N] activations, per convolution group."""

from dataclasses import dataclass

from lut.request import output_size
from lut.signature import OpSignature

KINDS = ("conv", "linear")
"""Operators that are matrix products; the others run on the vector lanes."""


@dataclass(frozen=True, kw_only=True)
class Gemm:
    """One layer as `groups` products of `rows` x `depth` weights with `depth` x `columns` activations."""

    rows: int
    """M: output channels of a group."""
    channels: int
    """Input channels of a group."""
    taps: int
    """kh * kw."""
    columns: int
    """N: output positions times images."""
    groups: int
    input_values: int
    """Bytes of the input map that are read at all; a convolution's patches overlap, so this is below depth * columns."""
    residual_values: int
    """Bytes of the map that is added to the output; 0 without one."""

    @property
    def depth(self) -> int:
        """K: input channels times taps."""
        return self.channels * self.taps

    @property
    def macs(self) -> int:
        """Multiply-accumulates when nothing is skipped."""
        return self.groups * self.rows * self.depth * self.columns

    @property
    def output_values(self) -> int:
        """Bytes of the output map."""
        return self.groups * self.rows * self.columns


def as_gemm(signature: OpSignature, c_in: int, c_out: int, batch: int) -> Gemm:
    """Return a convolution or linear layer as a matrix product; every activation and weight is one byte."""
    height, width = output_size(signature)
    columns = height * width * batch
    taps = signature.kernel[0] * signature.kernel[1]
    groups = signature.groups
    input_values = min(c_in * signature.height * signature.width * batch, c_in * taps * columns)
    return Gemm(
        rows=max(1, c_out // groups),
        channels=max(1, c_in // groups),
        taps=taps,
        columns=columns,
        groups=groups,
        input_values=input_values,
        residual_values=c_out * columns if signature.residual else 0,
    )
