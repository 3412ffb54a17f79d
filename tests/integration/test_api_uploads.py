"""Uploads: streamed to a file, told by their first bytes, looked at by a worker; nothing stays of what is refused."""

import json
import pickle

import pytest

from app.store.repositories import Workers
from secateur.schemas import Dataset, Model
from tests.integration.api_service import CLASSES, Service, check, images, put_inputs, weights


def test_a_model_is_uploaded_read_listed_and_deleted(service: Service) -> None:
    content = weights(num_columns=7)
    answer = service.upload_model(content, class_names=json.dumps(CLASSES))
    assert answer.status_code == 201, answer.text
    model = Model.model_validate(answer.json())
    assert answer.headers["location"] == f"/v1/models/{model.id}"
    assert (model.num_parameters, model.num_outputs, model.class_names) == (21, 3, CLASSES)
    assert model.size_bytes == len(content) and service.services.blobs.read_bytes(model.sha256) == content
    assert service.client.get(f"/v1/models/{model.id}").json() == answer.json()
    assert answer.json() in service.client.get("/v1/models").json()["items"]
    assert service.client.delete(f"/v1/models/{model.id}").status_code == 204
    check(service.client.get(f"/v1/models/{model.id}"), 404, "not_found")
    check(service.client.delete(f"/v1/models/{model.id}"), 404, "not_found")
    assert not service.services.blobs.exists(model.sha256)


def test_a_dataset_is_uploaded_read_listed_and_deleted(service: Service) -> None:
    answer = service.upload_dataset(class_map=json.dumps({"cat": 2, "dog": 0, "elk": 1}))
    assert answer.status_code == 201, answer.text
    dataset = Dataset.model_validate(answer.json())
    assert (dataset.classes, dataset.num_images, dataset.image_size) == (CLASSES, {"train": 3}, 32)
    assert dataset.class_map == {"cat": 2, "dog": 0, "elk": 1}
    assert service.client.get(f"/v1/datasets/{dataset.id}").json() == answer.json()
    assert answer.json() in service.client.get("/v1/datasets").json()["items"]
    assert service.client.delete(f"/v1/datasets/{dataset.id}").status_code == 204
    assert not service.services.blobs.exists(dataset.sha256)


def test_content_that_two_models_share_stays_until_both_are_deleted(service: Service) -> None:
    first, second = (service.upload_model(weights(num_columns=9)).json() for _ in range(2))
    assert first["sha256"] == second["sha256"] and first["id"] != second["id"]
    service.client.delete(f"/v1/models/{first['id']}")
    assert service.services.blobs.exists(second["sha256"])
    service.client.delete(f"/v1/models/{second['id']}")
    assert not service.services.blobs.exists(second["sha256"])


def torch_archive() -> bytes:
    return images(["archive/data.pkl", "archive/data/0"])


BAD_MODELS: list[tuple[bytes, dict[str, str], int, str]] = [
    (pickle.dumps({"w": [1.0] * 500}), {}, 415, "pickle_refused"),
    (pickle.dumps({"w": [1.0] * 500}, protocol=0), {}, 415, "pickle_refused"),
    (torch_archive(), {}, 415, "pickle_refused"),
    (images(), {}, 415, "pickle_refused"),
    (b"just text", {}, 415, "unsupported_format"),
    (b"", {}, 415, "unsupported_format"),
    (weights(), {"arch": "onnx"}, 415, "unsupported_format"),
    (b"\x08\x0a\x12\x07pytorch", {}, 415, "unsupported_format"),
    (weights(), {"arch": "resnet50"}, 422, "unknown_arch"),
    (weights(), {"arch": "torchvision/../../x"}, 422, "unknown_arch"),
    (weights(), {"arch": "cifar/resnet57"}, 422, "unknown_arch"),
    (weights(), {"name": ""}, 422, "invalid_request"),
    (weights(), {"class_names": "not json"}, 422, "invalid_request"),
    (weights(), {"class_names": '{"a": 1}'}, 422, "invalid_request"),
    (weights(), {"colour": "green"}, 422, "invalid_request"),
    (weights(num_columns=30_000), {}, 413, "body_too_large"),
    (weights(name="other"), {}, 422, "wrong_weights"),
    (weights(name="boom"), {}, 500, "check_failed"),
]


@pytest.mark.parametrize(("content", "fields", "status", "code"), BAD_MODELS)
def test_a_bad_model_is_refused_and_nothing_stays(
    service: Service, content: bytes, fields: dict[str, str], status: int, code: str
) -> None:
    before = service.files()
    assert "ZeroDivision" not in str(check(service.upload_model(content, **fields), status, code))
    assert service.files() == before


BAD_DATASETS: list[tuple[bytes, dict[str, str], int, str]] = [
    (torch_archive(), {}, 415, "pickle_refused"),
    (pickle.dumps([1, 2, 3]), {}, 415, "pickle_refused"),
    (weights(), {}, 415, "unsupported_format"),
    (images()[:150], {}, 422, "broken_zip"),
    (images(), {"image_size": "7"}, 422, "invalid_request"),
    (images(), {"image_size": "big"}, 422, "invalid_request"),
    (images(), {"mean": "[0.5]"}, 422, "invalid_request"),
    (images(), {"mean": "[0.5, 0.5]", "std": "[1, 1]"}, 422, "invalid_request"),
    (images(), {"std": "[1, 1, 0]"}, 422, "invalid_request"),
    (images(), {"mean": "[NaN, 0, 0]"}, 422, "invalid_request"),
    (images(), {"class_map": '{"cat": -1}'}, 422, "invalid_request"),
    (images(), {"class_map": "[" * 20_000}, 422, "invalid_request"),
    (images([f"train/a/{number}" for number in range(2500)]), {}, 413, "body_too_large"),
]


@pytest.mark.parametrize(("content", "fields", "status", "code"), BAD_DATASETS)
def test_a_bad_dataset_is_refused_and_nothing_stays(
    service: Service, content: bytes, fields: dict[str, str], status: int, code: str
) -> None:
    before = service.files()
    check(service.upload_dataset(content, **fields), status, code)
    assert service.files() == before


def multipart(*parts: tuple[str, bytes], end: bool = True) -> bytes:
    """A multipart body with the boundary `b`."""
    head = b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
    return b"".join(head % (name.encode(), value) for name, value in parts) + (b"--b--\r\n" if end else b"")


GOOD = (("name", b"n"), ("arch", b"cifar/resnet20"), ("file", weights()))


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (multipart(*GOOD, end=False), 400, "malformed_request"),
        (multipart(*GOOD)[:-40], 400, "malformed_request"),
        (b"--c\r\n\r\nx\r\n--c--", 400, "malformed_request"),
        (b"", 400, "malformed_request"),
        (multipart(*GOOD[:2]), 422, "invalid_request"),
        (multipart(*GOOD, GOOD[2]), 422, "invalid_request"),
        (multipart(*GOOD, GOOD[0]), 422, "invalid_request"),
        (multipart(*GOOD, *((f"f{n}", b"") for n in range(20))), 422, "invalid_request"),
        (multipart(("name", b"x" * 1_100_000), *GOOD), 413, "body_too_large"),
    ],
)
def test_multipart_bodies_that_are_not_right(service: Service, body: bytes, status: int, code: str) -> None:
    before = service.files()
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    check(service.client.post("/v1/models", content=body, headers=headers), status, code)
    assert service.files() == before


def test_the_limit_counts_what_comes_and_not_what_is_announced(service: Service) -> None:
    body = multipart(*GOOD[:2], ("file", weights(num_columns=200_000)))
    pieces = (body[start : start + 65_536] for start in range(0, len(body), 65_536))
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    before = service.files()
    check(service.client.post("/v1/models", content=pieces, headers=headers), 413, "body_too_large")
    assert service.files() == before


def test_an_upload_that_is_no_form(service: Service) -> None:
    check(service.client.post("/v1/models", content=b"x"), 415, "unsupported_media_type")
    check(service.client.post("/v1/luts", json={}), 415, "unsupported_media_type")


def test_without_a_worker_an_upload_is_refused_with_advice(idle: Service) -> None:
    answer = idle.upload_model()
    assert "secateur worker" in check(answer, 503, "no_worker")["detail"] and answer.headers["retry-after"]
    check(idle.upload_dataset(), 503, "no_worker")
    check(idle.client.post("/v1/prune-jobs/validate", json=put_inputs(idle)), 503, "no_worker")


def test_a_check_that_nobody_finishes_is_given_up(idle: Service) -> None:
    object.__setattr__(idle.settings, "inspect_timeout_s", 0.3)
    with idle.services.database.write() as session:
        Workers(session).register("h/0:a", slot="h/0", device_id="local")
    before = idle.files()
    check(idle.upload_model(), 504, "check_timeout")
    assert idle.files() == before
