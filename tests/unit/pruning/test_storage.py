"""Compact storage: bit for bit, as small as the paper says, and safe to open."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lut.metadata import num_kept, runs_fit_tiles
from lut.pattern import Pattern
from pruning.storage import (
    BITMAP,
    Header,
    differing,
    load_compact,
    metadata_bits,
    pack,
    pack_with_headers,
    save_compact,
    size_report,
    unpack,
)
from pruning.storage.bits import from_bytes, num_bytes, to_bytes

INTEGERS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}
PATTERNS = (
    "dense", "1:2", "2:4", "1:4", "2:8", "3:5", "16x16@1/2", "16x16@1/4", "8x1@1/4", "4x8@1/3", "16x16/tap@1/2", "4x24/tap@1/4",
    "2:4+16x16@1/2", "2:4+16x16/tap@1/2", "1:4+8x8/tap@1/3", "2:4+8x4@1/1", "2:4v+16x16@1/2", "1:4v+8x8@1/1", "2:4+4x96/tap@1/2",
)  # fmt: skip
SHAPES = ((16, 16), (32, 48, 3, 3), (24, 20, 1, 1), (16, 6, 3, 3), (8, 64, 1), (48, 3, 7, 7), (12, 8, 2, 2, 2))


def random_mask(pattern: Pattern, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Return a mask of `shape` that obeys the fitted `pattern`, by loops: N:M first, then tiles."""
    c_out, c_in, taps = shape[0], shape[1], math.prod(shape[2:])
    mask = np.ones((c_out, taps, c_in), bool)
    height = pattern.tile_out or 1
    if pattern.m > 1:
        mask[:] = False
        for row in range(0, c_out, height if pattern.shared else 1):
            for tap in range(1 if pattern.shared else taps):
                for start in range(0, c_in, pattern.m):
                    length = min(pattern.m, c_in - start)
                    kept = start + random.permutation(length)[: pattern.n]
                    if pattern.shared:
                        mask[row : row + height, :, kept] = True
                    else:
                        mask[row, tap, kept] = True
    if pattern.tile_out:
        columns = mask.reshape(c_out, -1)
        column = np.arange(taps * c_in)
        tile = (column if pattern.per_tap else column % c_in) // pattern.tile_in
        for row in range(0, c_out, height):
            kept = random.permutation(tile.max() + 1)[: pattern.num_kept_tiles(c_in, taps)]
            columns[row : row + height] &= np.isin(tile, kept)
    return np.moveaxis(mask, 1, 2).reshape(shape).copy()


def random_weight(shape: tuple[int, ...], dtype: torch.dtype, random: np.random.Generator) -> Tensor:
    """Return a weight of random bits: NaNs with payloads, infinities, denormals and negative zeros among them."""
    integer = INTEGERS[dtype]
    limits = torch.iinfo(integer)
    weight = torch.from_numpy(random.integers(limits.min, limits.max, shape, dtype=np.int64)).to(integer)
    weight.view(-1)[: min(4, weight.numel())] = torch.tensor([limits.min, 1, 0, limits.max])[: weight.numel()].to(
        integer
    )
    return weight.view(dtype)


def expected(weight: Tensor, mask: Tensor) -> Tensor:
    """Return the bits of the weight with +0 where it is masked."""
    return torch.where(mask, weight.view(INTEGERS[weight.dtype]), 0)


def example(name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """Return (state, masks, patterns) of a network with one masked layer."""
    random = np.random.default_rng(seed)
    pattern = Pattern.parse(name)
    mask = torch.from_numpy(random_mask(pattern.fitted(shape[1], shape[0], math.prod(shape[2:])), shape, random))
    weight = random_weight(shape, dtype, random)
    return {"conv.weight": weight, "conv.bias": torch.ones(3)}, {"conv": mask}, {"conv": pattern}


@given(
    name=st.sampled_from(PATTERNS),
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from(sorted(INTEGERS, key=str)),
    seed=st.integers(0, 2**32),
)
def test_unpacking_what_was_packed_gives_every_bit_back(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int
) -> None:
    try:
        state, masks, patterns = example(name, shape, dtype, seed)
    except ValueError:  # shared N:M on a layer without whole runs
        return
    tensors, headers = pack_with_headers(state, masks, patterns)
    restored = unpack(tensors, headers)
    assert restored.keys() == state.keys()
    assert restored["conv.weight"].dtype == dtype
    assert torch.equal(restored["conv.weight"].view(INTEGERS[dtype]), expected(state["conv.weight"], masks["conv"]))
    c_out, c_in, taps = shape[0], shape[1], math.prod(shape[2:])
    fitted = patterns["conv"].fitted(c_in, c_out, taps)
    by_indices = runs_fit_tiles(fitted, c_in) and masks["conv"].sum() * 64 >= masks["conv"].numel()
    assert headers["conv"].pattern == (fitted.id if by_indices else BITMAP)


@given(name=st.sampled_from(PATTERNS), shape=st.sampled_from(SHAPES), seed=st.integers(0, 2**32))
def test_metadata_bits_are_the_bytes_stored_up_to_padding(name: str, shape: tuple[int, ...], seed: int) -> None:
    try:
        layer = example(name, shape, seed=seed)
    except ValueError:
        return
    c_out, c_in, taps = shape[0], shape[1], math.prod(shape[2:])
    bits = metadata_bits(Pattern.parse(name), c_in, c_out, taps)
    (size,) = size_report(*layer).layers
    assert size.metadata_bits == bits
    assert bits <= 8 * size.metadata_bytes < bits + 16
    fitted = Pattern.parse(name).fitted(c_in, c_out, taps)
    if runs_fit_tiles(fitted, c_in):
        assert size.num_kept == num_kept(fitted, c_in, c_out, taps)


@pytest.mark.parametrize(
    ("name", "c_in", "c_out", "taps", "bits"),
    [
        ("dense", 64, 64, 9, 0),
        ("2:4", 64, 32, 9, 32 * 9 * 32 * 2),  # half of the weights, 2 bits each
        ("1:4", 64, 32, 1, 32 * 16 * 2),
        ("2:8", 64, 32, 1, 32 * 16 * 3),
        ("2:4", 6, 1, 1, (2 + 2) * 2),  # runs of 4 and 2: the short one keeps both
        ("2:4", 5, 1, 1, (2 + 1) * 2),  # runs of 4 and 1: the short one keeps its only channel
        ("2:4", 3, 10, 1, 10 * 2 * 2),
        ("16x16@1/4", 128, 64, 9, 4 * 2 * 3),  # 4 block-rows keep 2 of 8 tiles
        ("64x1@1/4", 64, 64, 9, 16 * 6),  # one block-row keeps 16 of 64 channels
        ("16x16/tap@1/4", 64, 32, 9, 2 * 9 * 6),  # 2 block-rows keep 9 of 36 tiles
        ("2:4+16x16@1/2", 64, 32, 1, 2 * 2 * 2 + 32 * 16 * 2),
        ("2:4+16x16/tap@1/2", 64, 32, 9, 2 * 18 * 6 + 32 * 144 * 2),
        ("2:4v+16x16@1/2", 64, 32, 9, 2 * 2 * 2 + 2 * 16 * 2),  # one choice for 16 rows and 9 taps
        ("2:4+4x6/tap@1/3", 12, 4, 3, 36 * 4),  # runs of 4 straddle tiles of 6: one bit a weight
    ],
)
def test_metadata_bits_by_hand(name: str, c_in: int, c_out: int, taps: int, bits: int) -> None:
    assert metadata_bits(Pattern.parse(name), c_in, c_out, taps) == bits


def test_a_short_last_run_stores_what_is_left_of_it_up_to_n_channels() -> None:
    mask = torch.tensor([[True, False, False, True, True, False]])  # runs: channels 0 and 3, then channel 0 of two
    state = {"fc.weight": torch.arange(1.0, 7.0).reshape(1, 6)}
    tensors, headers = pack_with_headers(state, {"fc": mask}, {"fc": Pattern.parse("2:4")})
    assert headers["fc"].pattern == BITMAP  # N:M keeps min(N, 2) = 2 of the short run; this mask keeps one
    mask[0, 5] = True
    tensors, headers = pack_with_headers(state, {"fc": mask}, {"fc": Pattern.parse("2:4")})
    assert headers["fc"] == Header(pattern="2:4", shape=(1, 6))
    assert tensors["fc.weight:values"].tolist() == [1, 4, 5, 6]
    assert tensors["fc.weight:channels"].tolist() == [0 | 3 << 2 | 0 << 4 | 1 << 6]


@given(st.data())
def test_a_mask_that_no_pattern_describes_comes_back_from_its_bitmap(data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([(4, 8), (3, 5, 3, 3), (0, 4), (4, 1)]))
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=math.prod(shape), max_size=math.prod(shape))))
    mask = mask.to(torch.bool).reshape(shape)
    weight = random_weight(shape, torch.float32, np.random.default_rng(0))
    patterns = {"a": Pattern.parse(data.draw(st.sampled_from(PATTERNS)))} if data.draw(st.booleans()) else {}
    restored = unpack(*pack_with_headers({"a.weight": weight}, {"a": mask}, patterns))
    assert torch.equal(restored["a.weight"].view(torch.int32), expected(weight, mask))


def test_a_tile_with_one_weight_missing_is_not_taken_for_a_whole_one() -> None:
    state, masks, patterns = example("16x16@1/2", (32, 64, 3, 3))
    masks["conv"][tuple(masks["conv"].nonzero()[5])] = False
    tensors, headers = pack_with_headers(state, masks, patterns)
    assert headers["conv"].pattern == BITMAP
    assert torch.equal(
        unpack(tensors, headers)["conv.weight"].view(torch.int32), expected(state["conv.weight"], masks["conv"])
    )


def test_zeros_among_the_kept_weights_stay_kept() -> None:
    state, masks, patterns = example("2:4", (16, 16))
    state["conv.weight"].zero_()
    tensors = pack(state, masks, patterns)
    assert len(tensors["conv.weight:values"]) == 128


def test_very_sparse_layers_are_stored_as_bitmaps() -> None:
    state, masks, patterns = example("1:128", (16, 256))
    assert pack_with_headers(state, masks, patterns)[1]["conv"].pattern == BITMAP


@pytest.mark.parametrize("name", PATTERNS)
def test_a_file_gives_back_the_network(tmp_path: Path, name: str) -> None:
    state, masks, patterns = example(name, (32, 96, 3, 3), torch.bfloat16)
    state |= {"steps": torch.tensor(7), "norm.weight": torch.rand(5, dtype=torch.float64)}
    path = tmp_path / "network.safetensors"
    save_compact(path, state, masks, patterns)
    restored = load_compact(path)
    assert restored.keys() == state.keys()
    assert torch.equal(restored.pop("conv.weight").view(torch.int16), expected(state.pop("conv.weight"), masks["conv"]))
    assert all(torch.equal(restored[key], state[key]) and restored[key].dtype == state[key].dtype for key in state)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_the_file_says_what_it_holds(tmp_path: Path) -> None:
    save_compact(tmp_path / "a", *example("2:4+16x16@1/2", (32, 64, 3, 3)))
    with safe_open(tmp_path / "a", "pt") as file:
        metadata = file.metadata()
    assert metadata["schema_version"] == "1"
    assert json.loads(metadata["layers"]) == {"conv": {"pattern": "2:4+16x16@1/2", "shape": [32, 64, 3, 3]}}


def test_the_size_report_by_hand() -> None:
    """64 x 64 float32 at 2:4 in half of the 16 x 16 tiles: 1,024 values, 1,024 indices of 2 bits, 8 of 2 bits."""
    report = size_report(*example("2:4+16x16@1/2", (64, 64)))
    (layer,) = report.layers
    assert (layer.num_kept, layer.metadata_bytes) == (1024, 256 + 2)
    assert layer.compact_bytes == 4096 + 258
    assert layer.csr_bytes == 4096 + 4096 + 65 * 4
    assert layer.dense_bytes == 16_384
    assert report.other_bytes == 12
    assert (report.compact_bytes, report.csr_bytes, report.dense_bytes) == (4366, 8464, 16_396)
    assert report.metadata_bits == layer.metadata_bits == 8 * 258


def test_a_bitmap_takes_one_bit_a_weight() -> None:
    (layer,) = size_report({"a.weight": torch.ones(3, 3)}, {"a": torch.eye(3, dtype=torch.bool)}, {}).layers
    assert (layer.pattern, layer.metadata_bits, layer.metadata_bytes) == (BITMAP, 9, 2)


def test_networks_differ_by_any_bit_type_shape_or_name() -> None:
    state = {"a": torch.tensor([0.0, float("nan")]), "b": torch.tensor(3), "c": torch.ones(2, 2, dtype=torch.bfloat16)}
    assert differing(state, {name: value.clone() for name, value in state.items()}) == ()
    others = {"a": torch.tensor([-0.0, float("nan")]), "b": torch.tensor(3, dtype=torch.int32), "c": torch.ones(4, 1)}
    assert differing(state, others) == ("a", "b", "c")
    assert differing(state, {"a": state["a"], "d": state["b"]}) == ("b", "c", "d")


def test_a_file_is_as_long_as_the_report_says_plus_its_header(tmp_path: Path) -> None:
    layer = example("1:4+16x16@1/2", (64, 64, 3, 3), torch.float16)
    save_compact(tmp_path / "a", *layer)
    report = size_report(*layer)
    assert report.compact_bytes <= (tmp_path / "a").stat().st_size <= report.compact_bytes + 1024
    assert report.compact_bytes < report.csr_bytes < report.dense_bytes


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda state, masks: masks.update(other=masks["conv"]), "other"),
        (lambda state, masks: masks.update(conv=masks["conv"][:8]), "shape"),
        (lambda state, masks: masks.update(conv=masks["conv"].float()), "bool"),
        (lambda state, masks: state.update({"conv.weight": state["conv.weight"].double()}), "float64"),
        (lambda state, masks: state.update({"conv.weight:values": torch.ones(1)}), "named like"),
    ],
)
def test_masks_and_weights_that_do_not_belong_together_are_refused(change: Callable[..., None], match: str) -> None:
    state, masks, patterns = example("2:4", (16, 16))
    change(state, masks)
    with pytest.raises(ValueError, match=match):
        pack(state, masks, patterns)


def change(part: str, index: int, value: int) -> Callable[[dict[str, Tensor], dict[str, Any]], None]:
    """Return an edit that sets one number of a packed part."""
    return lambda tensors, layer: tensors[f"conv.weight:{part}"].__setitem__(index, value)


def declare(**fields: Any) -> Callable[[dict[str, Tensor], dict[str, Any]], None]:
    """Return an edit of the declared layer."""
    return lambda tensors, layer: layer.update(fields)


HOSTILE = {
    "tile index out of range": ("16x16@1/3", change("tiles", 0, 0xFF), "tiles, found index 7"),
    "tile twice": ("16x16@1/3", change("tiles", 0, 0), "overlap"),
    "channel twice": ("2:4", change("channels", 0, 0), "overlap"),
    "channel outside its run": ("3:5", change("channels", 0, 0xFF), "outside its run"),
    "padding": (
        "16x16@1/3",
        lambda t, _: t.update({"conv.weight:tiles": t["conv.weight:tiles"] | 0x80}),
        "not zero|found",
    ),
    "part missing": ("2:4", lambda t, _: t.pop("conv.weight:channels"), "missing"),
    "values missing": ("2:4", lambda t, _: t.pop("conv.weight:values"), "values"),
    "values too few": ("2:4", lambda t, _: t.update({"conv.weight:values": torch.ones(7)}), "cannot be|found 7"),
    "values too many": ("2:4", lambda t, _: t.update({"conv.weight:values": torch.ones(99_999)}), "found 99999"),
    "values of another type": (
        "2:4",
        lambda t, _: t.update({"conv.weight:values": torch.ones(9, dtype=torch.int32)}),
        "float",
    ),
    "values of another shape": ("2:4", lambda t, _: t.update({"conv.weight:values": torch.ones(9, 9)}), "one row"),
    "indices too short": (
        "2:4",
        lambda t, _: t.update({"conv.weight:channels": torch.zeros(3, dtype=torch.uint8)}),
        "bytes",
    ),
    "indices of another type": ("2:4", lambda t, _: t.update({"conv.weight:channels": torch.ones(3)}), "uint8"),
    "part of another form": ("2:4", lambda t, _: t.update({"conv.weight:bitmap": torch.ones(3)}), "no such part"),
    "packed and dense": ("2:4", lambda t, _: t.update({"conv.weight": torch.ones(3)}), "both"),
    "pattern unknown": ("2:4", declare(pattern="9:4"), "N:M"),
    "pattern no text": ("2:4", declare(pattern=4), "id"),
    "another pattern": ("2:4", declare(pattern="1:4"), "keeps"),
    "tiles that do not divide": ("2:4", declare(pattern="2:4+7x4@1/2"), "does not fit"),
    "runs that straddle tiles": ("2:4", declare(pattern="2:5+16x4/tap@1/2"), "does not fit"),
    "a gigantic run": ("2:4", declare(pattern="1:1000000000000"), "does not fit"),
    "numbers without end": ("2:4", declare(pattern="16x16@1/" + "9" * 5000), "digits"),
    "a gigantic shape": ("2:4", declare(shape=[2**31, 2**31]), "no shape"),
    "a shape larger than its values allow": ("2:4", declare(shape=[2**20, 96, 3, 3]), "cannot be"),
    "a prime shape": ("2:4", declare(shape=[2_097_143, 1], pattern="2097142x1@1/1"), "does not fit|cannot be"),
    "a negative shape": ("2:4", declare(shape=[-16, -96, 3, 3]), "no shape"),
    "an empty shape": ("2:4", declare(shape=[]), "no shape"),
    "a zero in the shape": ("2:4", declare(shape=[16, 0, 3, 3]), "cannot be"),
    "a shape of fractions": ("2:4", declare(shape=[16.0, 96, 3, 3]), "whole"),
    "a shape of booleans": ("2:4", declare(shape=[True, 96, 3, 3]), "whole"),
    "a field too many": ("2:4", declare(more=1), "a pattern and a shape"),
    "bitmap missing": ("2:4", declare(pattern="bitmap"), "bitmap"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_that_lies_is_refused_with_what_is_wrong(tmp_path: Path, case: str) -> None:
    name, edit, match = HOSTILE[case]
    tensors, headers = pack_with_headers(*example(name, (32, 96, 3, 3)))
    layer: dict[str, Any] = {"pattern": headers["conv"].pattern, "shape": list(headers["conv"].shape)}
    edit(tensors, layer)
    metadata = {"format": "secateur-compact", "schema_version": "1", "layers": json.dumps({"conv": layer})}
    save_file(tensors, tmp_path / "a", metadata)
    with pytest.raises(ValueError, match=match):
        load_compact(tmp_path / "a")


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"format": "pt"},
        {"format": "secateur-compact", "schema_version": "2", "layers": "{}"},
        {"format": "secateur-compact", "schema_version": "1"},
        {"format": "secateur-compact", "schema_version": "1", "layers": "[" * 100_000},
        {"format": "secateur-compact", "schema_version": "1", "layers": "[]"},
        {"format": "secateur-compact", "schema_version": "1", "layers": '{"conv": []}'},
    ],
)
def test_metadata_of_another_kind_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "a", metadata)
    with pytest.raises(ValueError):
        load_compact(tmp_path / "a")


def test_a_bitmap_that_counts_otherwise_is_refused() -> None:
    tensors, headers = pack_with_headers({"a.weight": torch.ones(4, 4)}, {"a": torch.eye(4, dtype=torch.bool)}, {})
    tensors["a.weight:bitmap"][1] = 0xFF
    with pytest.raises(ValueError, match="keeps"):
        unpack(tensors, headers)


@given(st.binary(max_size=200))
def test_noise_is_no_compact_file(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "noise"
    path.write_bytes(noise)
    with pytest.raises(ValueError):
        load_compact(path)


@given(seed=st.integers(0, 2**32), name=st.sampled_from(PATTERNS))
def test_a_file_with_bytes_changed_loads_or_is_refused_and_never_more(
    tmp_path_factory: pytest.TempPathFactory, seed: int, name: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed"
    save_compact(path, *example(name, (16, 48, 3, 3)))
    data = bytearray(path.read_bytes())
    random = np.random.default_rng(seed)
    # The header is where a change means something; values may be anything.
    for position in random.integers(0, min(len(data), 600), 3):
        data[position] = random.integers(0, 256)
    path.write_bytes(data)
    try:
        restored = load_compact(path)
    except ValueError:
        return
    assert sum(tensor.nbytes for tensor in restored.values()) <= 64 * len(data)


@given(width=st.integers(0, 33), data=st.data())
def test_numbers_survive_as_bits(width: int, data: st.DataObject) -> None:
    numbers = np.array(data.draw(st.lists(st.integers(0, 2**width - 1))), np.int64)
    packed = to_bytes(numbers, width)
    assert len(packed) == num_bytes(len(numbers), width)
    assert (from_bytes(packed, len(numbers), width, "numbers") == numbers).all()
