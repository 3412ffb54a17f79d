"""The ablation bench runs as a whole on a tiny network; its rows can be compared and come again."""

import json
import zipfile
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from bench.ablation import main
from pruning.architectures import build

FOLDERS = ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the arguments that name a network and images of three classes."""
    folder = tmp_path_factory.mktemp("ablation")
    draw = np.random.default_rng(0)
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for split, count in (("train", 10), ("val", 4)):
            for name, colour in zip(FOLDERS, np.eye(3) * 120, strict=True):
                for i in range(count):
                    pixels = np.clip(colour + draw.normal(60, 40, (16, 16, 3)), 0, 255).astype(np.uint8)
                    Image.fromarray(pixels).save(file := BytesIO(), "PNG")
                    archive.writestr(f"{split}/{name}/{i}.png", file.getvalue())
    torch.manual_seed(0)
    save_file(build("cifar/resnet20").state_dict(), folder / "weights.safetensors")
    named = ["--data", folder / "images.zip", "--arch", "cifar/resnet20", "--weights", folder / "weights.safetensors"]
    return [*map(str, named), "--rows", "4,9,0", "--image-size", "16", "--scored", "12", "--repaired", "12"]


def rows(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> list[dict[str, Any]]:
    assert main([*arguments, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_first_saliency_meets_every_mask_and_the_others_the_control_masks_at_equal_density_for_each_seed(
    inputs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    masks = ["unstructured", "2:4+16x16@1/2", "2:4v+16x16@1/2", "16x1@1/4", "16x4@1/4"]
    chosen = ["--methods", "cass", "magnitude", "random", "--masks", *masks, "--control-masks", "16x1@1/4"]
    found = rows(capsys, [*inputs, *chosen, "--seeds", "0", "1"])
    expected = [("cass", mask) for mask in masks] + [("magnitude", "16x1@1/4"), ("random", "16x1@1/4")]
    assert [(row["saliency"], row["mask"], row["seed"]) for row in found] == [
        (*pair, seed) for seed in (0, 1) for pair in expected
    ]
    by_mask = {row["mask"]: row["density"] for row in found}
    assert by_mask["unstructured"] == by_mask["16x1@1/4"] == by_mask["16x4@1/4"] == 0.25
    # Sixteen channels are one tile of 16 x 16, and a pattern keeps one: the row says so.
    assert 0.25 < by_mask["2:4+16x16@1/2"] == by_mask["2:4v+16x16@1/2"] < 0.27
    assert all(row["accuracy"] is None for row in found)
    # Splits are no draw: every seed is judged on the same images.
    assert len({(row["accuracy_dense"], row["num_images"]) for row in found}) == 1


def test_a_seed_gives_the_same_rows_again_and_another_seed_others(
    inputs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["--methods", "random", "--masks", "unstructured", "16x1@1/4", "16x4@1/4", "--seeds"]
    first, again, other = (rows(capsys, [*inputs, *chosen, seed]) for seed in ("0", "0", "1"))
    assert first == again
    assert [row | {"seed": 1} for row in first] != other


def test_fine_tuning_is_asked_for(inputs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--methods", "magnitude", "--masks", "16x1@1/4", "--seeds", "0", "--epochs", "1"]
    (row,) = rows(capsys, [*inputs, *chosen])
    assert row["accuracy"] is not None


def test_a_row_does_not_depend_on_the_rows_before_it(inputs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    chosen = [*inputs, "--methods", "cass", "--seeds", "3", "--masks"]
    both = rows(capsys, [*chosen, "unstructured", "16x16@1/4"])
    assert rows(capsys, [*chosen, "16x16@1/4"]) == both[1:]


def test_other_classes_are_scored_where_there_are_any_and_else_null_with_a_reason(
    inputs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["--methods", "other_classes", "--masks", "unstructured", "--seeds", "0"]
    (none,) = rows(capsys, [*inputs, *chosen])
    assert none["accuracy_repaired"] is None and "every class" in none["reason"]
    (some,) = rows(capsys, [*inputs, *chosen, "--classes", "bee,ant"])
    assert some["accuracy_repaired"] is not None and "reason" not in some
    assert some["num_images"] == 8


def test_the_table_has_means_over_the_seeds_with_their_standard_error(
    inputs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [*inputs, "--methods", "cass", "other_classes", "--control-masks", "unstructured", "--masks"]
    assert main([*chosen, "unstructured", "--seeds", "0", "1"]) == 0
    out, progress = capsys.readouterr()
    lines = out.splitlines()
    figures = [json.loads(line)["accuracy_repaired"] for line in progress.splitlines()]
    mean, error = (figures[0] + figures[2]) / 2, abs(figures[0] - figures[2]) / 2
    assert "12 images of val/" in lines[0] and "over 2 seeds" in lines[0]
    assert "| cass | unstructured | 0.250 | " in out and f"| {mean:.3f} ± {error:.3f} | - |" in out
    assert "| other_classes | unstructured | - | - | - | - |" in lines
    assert lines[-1].startswith("other_classes: every class")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--classes", "ant,dog"], "no such class: dog; there are ant, bee, cat"),
        (["--rows", "1,2"], "3 different rows"),
        (["--rows", "1,1,2"], "3 different rows"),
        (["--rows", "1,2,10"], "3 different rows"),
        (["--masks", "16x1@5/4"], "share"),
        (["--control-masks", "dense-ish"], "not a pattern"),
        (["--density", "0"], "(0, 1]"),
        (["--methods", "luck"], "invalid choice"),
        (["--data", "nowhere.zip"], "nowhere.zip"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_what_is_wrong(
    inputs: list[str], capsys: pytest.CaptureFixture[str], more: list[str], words: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*inputs, *more])
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err
