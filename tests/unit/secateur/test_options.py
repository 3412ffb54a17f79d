"""What users write on the command line."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.cli.options import (
    IMAGENET,
    default_image_size,
    model_arch,
    parse_also,
    parse_budget,
    parse_frontier,
    parse_normalization,
    parse_size,
    parse_widths,
    read_json,
    resolve_classes,
    split_classes,
)
from secateur.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5", {"budget_ms": 5}),
        ("5ms", {"budget_ms": 5}),
        (" 2.5 ms", {"budget_ms": 2.5}),
        ("800us", {"budget_ms": 0.8}),
        (".1s", {"budget_ms": 100}),
        ("0.5x", {"budget_ratio": 0.5}),
        ("50%", {"budget_ratio": 0.5}),
        ("1X", {"budget_ratio": 1}),
    ],
)
def test_budget_carries_its_unit(text: str, expected: dict[str, float]) -> None:
    assert parse_budget(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "x", "0ms", "-1ms", "0x", "1.5x", "nanms", "1e9999ms ms", "5 minutes"])
def test_budget_without_sense_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--budget"):
        parse_budget(text)


@given(st.floats(min_value=1e-3, max_value=1e6))
def test_any_time_in_ms_is_read_back(budget_ms: float) -> None:
    assert parse_budget(f"{budget_ms!r}ms") == {"budget_ms": budget_ms}


def test_classes_are_split_once_each() -> None:
    assert split_classes(["cat, dog", "7,cat"]) == ["cat", "dog", "7"]
    with pytest.raises(UsageError, match="at least one"):
        split_classes([" ,"])


def test_folder_called_3_is_meant_before_index_3() -> None:
    assert resolve_classes(["3", "1", "cat"], ["3", "5", "cat"]) == ["3", 1, "cat"]
    assert resolve_classes(["dgo"], ["dog"]) == ["dgo"], "the service names the unknown class"


def test_normalisation_comes_from_preset_numbers_or_family() -> None:
    def read(
        text: str | None, mean: str | None = None, std: str | None = None, *, arch: str = "onnx"
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        found = parse_normalization(text, mean, std, arch=arch)
        return found.mean, found.std

    assert read("half") == ((0.5,) * 3, (0.5,) * 3)
    assert read("1,2,3,4,5,6") == ((1, 2, 3), (4, 5, 6))
    assert read("0.1 0.3") == ((0.1,), (0.3,))
    assert read(None, "0.1,0.2,0.3", "1,1,1") == ((0.1, 0.2, 0.3), (1, 1, 1))
    assert read(None, arch="torchvision/resnet18") == IMAGENET


@pytest.mark.parametrize(
    ("text", "mean", "std", "match"),
    [
        (None, None, None, "say how"),
        ("imagnet", None, None, "one of imagenet"),
        ("1,2,3", None, None, "as many"),
        ("0,0,0,1,1,0", None, None, "more than zero"),
        (None, "0,0,0", None, "together"),
        ("half", "0", "1", "without --normalize"),
        ("", None, None, "as many"),
    ],
)
def test_normalisation_is_never_guessed(text: str | None, mean: str | None, std: str | None, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        parse_normalization(text, mean, std, arch="cifar/resnet20")


def test_side_comes_from_the_file_or_the_family() -> None:
    assert default_image_size("onnx", [3, 48, 48]) == 48
    assert default_image_size("cifar/resnet20-a", None) == 32
    assert default_image_size("timm/convnext_tiny", None) == 224
    with pytest.raises(UsageError, match="--image-size"):
        default_image_size("onnx", None)


def test_pickles_are_refused_with_what_to_do() -> None:
    with pytest.raises(UsageError, match="safetensors"):
        model_arch(Path("net.pth"), "torchvision/resnet18")
    assert model_arch(Path("net.onnx"), None) == "onnx"
    with pytest.raises(UsageError, match="--arch"):
        model_arch(Path("net.safetensors"), None)


def test_json_files_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "map.json"
    file.write_text('{"cat": 3}')
    assert read_json("--class-map", file, dict) == {"cat": 3}
    assert read_json("--class-map", None, dict) is None
    with pytest.raises(UsageError, match="expected a JSON list"):
        read_json("--class-names", file, list)
    file.write_text("{")
    with pytest.raises(UsageError, match=r"map\.json"):
        read_json("--class-map", file, dict)
    with pytest.raises(UsageError, match="No such file"):
        read_json("--class-map", tmp_path / "none.json", dict)


def test_further_devices_frontiers_sizes_and_widths_are_read() -> None:
    assert parse_also(["0.5x, threads=2,batch=8,runtime=openvino", "5ms,device=pixel6", "50%,device=analytic/2-4"]) == [
        {"budget_ratio": 0.5, "threads": 2, "batch": 8, "runtime": "openvino"},
        {"budget_ms": 5.0, "device": "pixel6"},
        {"budget_ratio": 0.5, "device": "analytic/2-4"},
    ]
    assert parse_also(None) == [] and parse_frontier(None, {"budget_ms": 1.0}) == []
    assert parse_frontier(["0.4x,0.6x", "80%"], {"budget_ratio": 0.5}) == [0.4, 0.6, 0.8]
    assert [parse_size(text) for text in ("800kB", "1.5MiB", "100", "2 GB")] == [800_000, 1_572_864, 100, 2 * 10**9]
    assert parse_widths(["layer1.0.conv1=32, fc=8"]) == {"layer1.0.conv1": 32, "fc": 8}


@pytest.mark.parametrize(
    "read",
    [
        lambda: parse_also(["5ms,threads=two"]),
        lambda: parse_also(["5ms,device="]),
        lambda: parse_also(["5ms,runtime="]),
        lambda: parse_also([""]),
        lambda: parse_frontier(["5ms"], {"budget_ratio": 0.5}),
        lambda: parse_size("5 elephants"),
        lambda: parse_widths(["conv1"]),
        lambda: parse_widths(["conv1=0"]),
    ],
)
def test_further_targets_that_make_no_sense_are_named(read: Callable[[], object]) -> None:
    with pytest.raises(UsageError, match="--"):
        read()
