"""What the service says to input it cannot use; every refusal leaves nothing behind."""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from secateur import ApiError, Client
from secateur.schemas import Dataset, Model

NORMAL = {"mean": [0.5] * 3, "std": [0.5] * 3}


@pytest.fixture
def stored(client: Client, inputs: tuple[Model, Dataset], folder: Path) -> Callable[[], tuple[int, int, int]]:
    """Count models, datasets and stored files."""

    def count() -> tuple[int, int, int]:
        blobs = [path for path in (folder / "home" / "blobs").rglob("*") if path.is_file()]
        return len(list(client.models())), len(list(client.datasets())), len(blobs)

    return count


def png(size: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((size, size, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in files.items():
            target.writestr(name, content)
    return path


def test_weights_of_another_network_are_refused_with_their_keys(
    client: Client, inputs: tuple[Model, Dataset], folder: Path, tmp_path: Path, stored: Callable[[], object]
) -> None:
    state = load_file(folder / "resnet20.safetensors")
    state["surprise.weight"] = state.pop("layer1.0.conv1.weight")
    save_file(state, tmp_path / "other.safetensors")
    before = stored()
    with pytest.raises(ApiError) as refused:
        client.upload_model(tmp_path / "other.safetensors", arch="cifar/resnet20")
    assert refused.value.problem.code == "wrong_weights"
    told = {(error.pointer, error.detail) for error in refused.value.problem.errors}
    assert told == {("/file/layer1.0.conv1.weight", "missing"), ("/file/surprise.weight", "unexpected")}
    assert stored() == before


@pytest.mark.parametrize("arch", ["cifar/resnet21", "torchvision/nothing", "onnx"])
def test_a_network_nobody_knows_is_refused(
    client: Client, inputs: tuple[Model, Dataset], folder: Path, arch: str, stored: Callable[[], object]
) -> None:
    before = stored()
    with pytest.raises(ApiError) as refused:
        client.upload_model(folder / "resnet20.safetensors", arch=arch)
    assert 400 <= refused.value.problem.status < 500
    assert stored() == before


def test_a_pickle_is_refused_with_what_to_do_instead(
    client: Client, inputs: tuple[Model, Dataset], tmp_path: Path, stored: Callable[[], object]
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps({"weight": [1.0]}))
    before = stored()
    with pytest.raises(ApiError) as refused:
        client.upload_model(path, arch="cifar/resnet20")
    assert refused.value.problem.status == 415
    assert "safetensors" in refused.value.problem.detail
    assert stored() == before


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"train/a/../../../evil.png": png(), "train/b/1.png": png()}, "unsafe_path"),
        ({"train/a/1.png": b"\0" * (64 << 20), "train/b/1.png": png()}, "zip_bomb"),
        ({"pictures/1.png": png()}, "no_train_split"),
        ({"train/a/1.png": b"not an image", "train/b/1.png": png()}, "empty_class"),
    ],
)
def test_a_hostile_or_useless_zip_is_refused(
    client: Client,
    inputs: tuple[Model, Dataset],
    tmp_path: Path,
    files: dict[str, bytes],
    code: str,
    stored: Callable[[], object],
) -> None:
    before = stored()
    with pytest.raises(ApiError) as refused:
        client.upload_dataset(archive(tmp_path / "images.zip", files), image_size=8, **NORMAL)
    assert refused.value.problem.code == code
    assert stored() == before


def test_a_torn_zip_is_refused(
    client: Client, inputs: tuple[Model, Dataset], folder: Path, tmp_path: Path, stored: Callable[[], object]
) -> None:
    whole = (folder / "digits.zip").read_bytes()
    (tmp_path / "torn.zip").write_bytes(whole[: len(whole) // 2])
    before = stored()
    with pytest.raises(ApiError) as refused:
        client.upload_dataset(tmp_path / "torn.zip", image_size=32, **NORMAL)
    assert refused.value.problem.status in (415, 422)
    assert stored() == before


def test_images_that_do_not_decode_are_counted_and_listed(
    client: Client, inputs: tuple[Model, Dataset], tmp_path: Path
) -> None:
    good = {f"train/{name}/{number}.png": png() for name in "ab" for number in range(3)}
    files = good | {"train/a/broken.png": b"\x89PNG\r\n\x1a\n and no more"}
    dataset = client.upload_dataset(archive(tmp_path / "some.zip", files), image_size=8, **NORMAL)
    assert dataset.num_images == {"train": 6}
    assert dataset.num_skipped == 1 and dataset.skipped[0].startswith("train/a/broken.png")


@pytest.mark.parametrize(
    "fault",
    [
        {"classes": ["3", "eleven"]},
        {"classes": [3, 99]},
        {"classes": []},
        {"budget_ratio": None, "budget_ms": 0},
        {"budget_ratio": None, "budget_ms": -1.0},
        {"budget_ms": 1.0},
        {"budget_ratio": 0},
        {"model_id": "mdl_nothing"},
        {"saliency": "magic"},
    ],
)
def test_a_job_that_cannot_be_is_refused_and_not_stored(
    client: Client, inputs: tuple[Model, Dataset], fault: dict[str, object]
) -> None:
    model, dataset = inputs
    spec = {"model_id": model.id, "dataset_id": dataset.id, "classes": ["3"], "budget_ratio": 0.5} | fault
    before = len(list(client.jobs()))
    response = client._transport._http.post(client._transport.url("/v1/prune-jobs"), json=spec)
    assert 400 <= response.status_code < 500
    problem = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["code"] and problem["errors"]
    assert len(list(client.jobs())) == before
