"""How small a masked network becomes: compact storage beside CSR and dense."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lut.metadata import metadata_bits
from lut.pattern import Pattern
from pruning.storage.pack import BITMAP, Header, pack_with_headers

_INDEX_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class LayerSize:
    """Bytes of one masked weight in three forms."""

    module: str
    pattern: str
    """Fitted pattern, or `bitmap`."""
    num_kept: int
    """Weights the mask keeps."""
    compact_bytes: int
    """Values and indices, each padded to whole bytes."""
    metadata_bytes: int
    """The indices among them."""
    metadata_bits: int
    """What the indices take before padding: `lut.metadata.metadata_bits`, or one bit a weight for a bitmap."""
    csr_bytes: int
    """Values, int32 column indices and int32 row pointers over the matrix C_out x (C_in * kh * kw)."""
    dense_bytes: int


@dataclass(frozen=True, kw_only=True)
class SizeReport:
    """Bytes of a network: masked layers one by one, and all other tensors, which every form stores alike."""

    layers: tuple[LayerSize, ...]
    other_bytes: int

    @property
    def metadata_bits(self) -> int:
        """Of all masked layers."""
        return sum(layer.metadata_bits for layer in self.layers)

    @property
    def compact_bytes(self) -> int:
        """Whole network with packed layers; the file adds its header."""
        return self.other_bytes + sum(layer.compact_bytes for layer in self.layers)

    @property
    def csr_bytes(self) -> int:
        """Whole network with masked layers in CSR."""
        return self.other_bytes + sum(layer.csr_bytes for layer in self.layers)

    @property
    def dense_bytes(self) -> int:
        """Whole network, dense."""
        return self.other_bytes + sum(layer.dense_bytes for layer in self.layers)


def size_report(
    state: Mapping[str, Tensor], masks: Mapping[str, Tensor], patterns: Mapping[str, Pattern]
) -> SizeReport:
    """Return the bytes of a masked network; arguments and errors are those of `pack_with_headers`."""
    packed, headers = pack_with_headers(state, masks, patterns)
    layers = []
    for module, header in headers.items():
        name = f"{module}.weight"
        values = packed.pop(f"{name}:values")
        parts = ("bitmap", "tiles", "channels")
        metadata = sum(packed.pop(f"{name}:{part}").nbytes for part in parts if f"{name}:{part}" in packed)
        csr = values.nbytes + _INDEX_BYTES * (len(values) + header.shape[0] + 1)
        layers.append(
            LayerSize(
                module=module,
                pattern=header.pattern,
                num_kept=len(values),
                compact_bytes=values.nbytes + metadata,
                metadata_bytes=metadata,
                metadata_bits=_bits(header),
                csr_bytes=csr,
                dense_bytes=state[name].nbytes,
            )
        )
    return SizeReport(layers=tuple(layers), other_bytes=sum(tensor.nbytes for tensor in packed.values()))


def _bits(header: Header) -> int:
    c_out, c_in, *kernel = header.shape
    if header.pattern == BITMAP:
        return math.prod(header.shape)
    return metadata_bits(Pattern.parse(header.pattern), c_in, c_out, math.prod(kernel))
