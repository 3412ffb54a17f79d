"""Masked weights as packed tensors, and back, bit for bit.

A layer's weight [C_out, C_in, *kernel] becomes `<weight>:values` (its kept values, in the weight's own order) and, as
uint8, `<weight>:tiles` and `<weight>:channels` (see `places`); a mask that no pattern describes becomes a
`<weight>:bitmap` of one bit a weight instead. All other tensors stay as they are.
"""

import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lut.metadata import index_width, num_choices, num_kept, num_tiles, runs_fit_tiles
from lut.pattern import Pattern
from pruning.storage import bits
from pruning.storage.places import Places, find, restore

BITMAP = "bitmap"
"""`Header.pattern` of a layer stored as a bitmap."""
MAX_EXPANSION = 64
"""A weight that indices restore is at most this many times as large as its stored values, so that a small file cannot
ask for much memory. Sparser layers are stored as bitmaps, which cannot either."""
MAX_RUN = 65_536
"""Largest M that indices describe."""
MAX_WEIGHTS = 2**40
_BITS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the packed tensors of one layer do not say themselves."""

    pattern: str
    """Id of the pattern, fitted to the layer, or `BITMAP`."""
    shape: tuple[int, ...]
    """Of the dense weight: at least two axes, output channels first."""


def pack(
    state: Mapping[str, Tensor], masks: Mapping[str, Tensor], patterns: Mapping[str, Pattern]
) -> dict[str, Tensor]:
    """Return the packed tensors of a network; see `pack_with_headers`."""
    return pack_with_headers(state, masks, patterns)[0]


def pack_with_headers(
    state: Mapping[str, Tensor], masks: Mapping[str, Tensor], patterns: Mapping[str, Pattern]
) -> tuple[dict[str, Tensor], dict[str, Header]]:
    """Return (packed tensors, headers by module) of a state dict whose modules in `masks` are masked.

    Parameters
    ----------
    state
        By tensor name; weights of masked modules are `<module>.weight`, float32, float16 or bfloat16.
    masks
        By module, bool in the shape of its weight, True = keep. What is masked comes back as +0, whatever it was.
    patterns
        By module; a pattern is fitted to its layer. A module without one, or whose mask does not obey it, or so sparse
        that indices would restore it more than `MAX_EXPANSION` times as large, is stored as a bitmap.

    Raises ValueError for a mask without weight, of another shape or type, or a tensor whose name a packed one takes.
    """
    if stray := _parts_of(state, masks):
        raise ValueError(f"{stray[0]}: the network has a tensor named like a packed one")
    packed = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    headers: dict[str, Header] = {}
    for module, mask in masks.items():
        weight = packed.pop(f"{module}.weight", None)
        if weight is None or weight.shape != mask.shape or mask.dtype != torch.bool or weight.ndim < 2:
            raise ValueError(f"{module}: a mask is bool in the shape of a weight of at least two axes")
        if weight.dtype not in _BITS:
            raise ValueError(f"{module}: weights are float32, float16 or bfloat16, found {weight.dtype}")
        parts, headers[module] = _pack_layer(weight, mask.detach().cpu(), patterns.get(module))
        packed |= {f"{module}.weight:{part}": tensor for part, tensor in parts.items()}
    return packed, headers


def _pack_layer(weight: Tensor, mask: Tensor, pattern: Pattern | None) -> tuple[dict[str, Tensor], Header]:
    shape = tuple(weight.shape)
    values = torch.masked_select(weight.view(_BITS[weight.dtype]), mask).view(weight.dtype)
    fitted = _fitted(pattern, shape)
    places = None
    if fitted is not None and mask.numel() <= MAX_EXPANSION * len(values):
        places = find(_matrix(mask.numpy()), fitted)
    if fitted is None or places is None:
        bitmap = bits.to_bytes(mask.numpy().reshape(-1).view(np.uint8), 1)
        return {"values": values, "bitmap": torch.from_numpy(bitmap)}, Header(pattern=BITMAP, shape=shape)
    parts = {"values": values}
    if fitted.tile_out:
        width = index_width(num_tiles(fitted, shape[1], math.prod(shape[2:])))
        parts["tiles"] = torch.from_numpy(bits.to_bytes(places.tiles.reshape(-1), width))
    if fitted.m > 1:
        parts["channels"] = torch.from_numpy(bits.to_bytes(places.channels, index_width(fitted.m)))
    return parts, Header(pattern=fitted.id, shape=shape)


def unpack(tensors: Mapping[str, Tensor], headers: Mapping[str, Header]) -> dict[str, Tensor]:
    """Return the state dict that `pack_with_headers` packed, weights dense, masked ones +0.

    Nothing is trusted: raises ValueError, naming the layer, when shapes, lengths, types or indices do not agree with
    the header, before anything larger than `MAX_EXPANSION` times the layer's stored values is allocated.
    """
    state = dict(tensors)
    for module, header in headers.items():
        name = f"{module}.weight"
        if name in state:
            raise ValueError(f"{name}: stored both packed and dense")
        parts = ("bitmap",) if header.pattern == BITMAP else ("tiles", "channels")
        found = {part: state.pop(f"{name}:{part}") for part in ("values", *parts) if f"{name}:{part}" in state}
        state[name] = _unpack_layer(found, header, name)
    if stray := _parts_of(state, headers):
        raise ValueError(f"{stray[0]}: its layer has no such part")
    return state


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the names of tensors that are in one state dict alone, or differ in type, shape or any bit; sorted."""

    def bits_of(tensor: Tensor) -> Tensor:
        return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)

    def same(a: Tensor, b: Tensor) -> bool:
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits_of(a), bits_of(b))

    shared = one.keys() & other.keys()
    return tuple(sorted({*(one.keys() ^ other.keys()), *(name for name in shared if not same(one[name], other[name]))}))


def _parts_of(names: Iterable[str], modules: Container[str]) -> list[str]:
    """Return the names that are those of packed parts: `<module>.weight:<part>`."""
    split = ((name, *name.rpartition(".weight:")[:2]) for name in names)
    return [name for name, module, mark in split if mark and module in modules]


def _unpack_layer(parts: Mapping[str, Tensor], header: Header, name: str) -> Tensor:
    values = parts.get("values")
    if values is None or values.dtype not in _BITS or values.ndim != 1:
        raise ValueError(f"{name}: its values are one row of float32, float16 or bfloat16")
    shape = header.shape
    if not 2 <= len(shape) <= 8 or min(shape) < 0 or math.prod(max(n, 1) for n in shape) > MAX_WEIGHTS:
        raise ValueError(f"{name}: {shape!r} is no shape of a weight")
    indices = {
        part: tensor.numpy() for part, tensor in parts.items() if part != "values" and tensor.dtype == torch.uint8
    }
    restored = _mask_of_bitmap if header.pattern == BITMAP else _mask_of_pattern
    mask = restored(indices, len(values), header, name)
    bit_type = _BITS[values.dtype]
    weight = torch.zeros(shape, dtype=bit_type)
    weight.masked_scatter_(torch.from_numpy(mask.copy()), values.view(bit_type))
    return weight.view(values.dtype)


def _mask_of_bitmap(parts: Mapping[str, np.ndarray], num_values: int, header: Header, name: str) -> np.ndarray:
    bitmap = _part(parts, "bitmap", math.prod(header.shape), 1, name)
    if bitmap.sum() != num_values:
        raise ValueError(f"{name}: its bitmap keeps {bitmap.sum()} weights, found {num_values} values")
    return bitmap.astype(bool).reshape(header.shape)


def _mask_of_pattern(parts: Mapping[str, np.ndarray], num_values: int, header: Header, name: str) -> np.ndarray:
    shape = header.shape
    if not math.prod(shape) or math.prod(shape) > MAX_EXPANSION * num_values:
        raise ValueError(f"{name}: {num_values} values cannot be those of a weight of shape {list(shape)}")
    pattern = Pattern.parse(header.pattern)
    c_out, c_in, taps = shape[0], shape[1], math.prod(shape[2:])
    columns = c_in * taps if pattern.per_tap else c_in
    whole = not pattern.tile_out or (c_out % pattern.tile_out == 0 and columns % pattern.tile_in == 0)
    if not whole or pattern.m > MAX_RUN or not runs_fit_tiles(pattern, c_in):
        raise ValueError(f"{name}: {pattern.id} does not fit a weight of shape {list(shape)}")
    if (kept := num_kept(pattern, c_in, c_out, taps)) != num_values:
        raise ValueError(f"{name}: {pattern.id} keeps {kept} of {list(shape)}, found {num_values} values")
    tiles = channels = np.zeros((0, 0), np.int64)
    if pattern.tile_out:
        grid = c_out // pattern.tile_out, pattern.num_kept_tiles(c_in, taps)
        tiles = _part(parts, "tiles", math.prod(grid), index_width(num_tiles(pattern, c_in, taps)), name).reshape(grid)
    if pattern.m > 1:
        count = num_choices(pattern, c_in, c_out, taps)
        channels = _part(parts, "channels", count, index_width(pattern.m), name)
    mask = restore(Places(tiles=tiles, channels=channels), pattern, (c_out, taps, c_in), name)
    return np.moveaxis(mask, 1, 2).reshape(shape)


def _part(parts: Mapping[str, np.ndarray], part: str, count: int, width: int, name: str) -> np.ndarray:
    if part not in parts:
        raise ValueError(f"{name}: its {part} are missing or not uint8")
    return bits.from_bytes(parts[part], count, width, f"{name}:{part}")


def _fitted(pattern: Pattern | None, shape: tuple[int, ...]) -> Pattern | None:
    """Return the pattern fitted to a weight; None without one, for an empty weight, and where it does not fit."""
    if pattern is None or pattern.m > MAX_RUN or not math.prod(shape):
        return None
    try:
        return pattern.fitted(shape[1], shape[0], math.prod(shape[2:]))
    except ValueError:
        return None


def _matrix(mask: np.ndarray) -> np.ndarray:
    """Return a mask [C_out, C_in, *kernel] as [C_out, taps, C_in]."""
    return np.moveaxis(mask.reshape(*mask.shape[:2], -1), 1, 2)
