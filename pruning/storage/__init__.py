"""Compact storage of masked weights: packed values and bit-packed indices in one safetensors file.

Layout: `bits` (indices to bytes), `places` (mask <-> indices of a pattern), `pack` (weights of a network <-> packed
tensors), `file` (the safetensors file), `size` (bytes beside CSR and dense). The figure that needs no weights,
`metadata_bits`, lives in `lut.metadata`, where accelerator models use it too.
"""

from lut.metadata import metadata_bits
from pruning.storage.file import SCHEMA_VERSION, load_compact, save_compact
from pruning.storage.pack import BITMAP, Header, differing, pack, pack_with_headers, unpack
from pruning.storage.size import LayerSize, SizeReport, size_report

__all__ = [
    "BITMAP",
    "SCHEMA_VERSION",
    "Header",
    "LayerSize",
    "SizeReport",
    "differing",
    "load_compact",
    "metadata_bits",
    "pack",
    "pack_with_headers",
    "save_compact",
    "size_report",
    "unpack",
]
