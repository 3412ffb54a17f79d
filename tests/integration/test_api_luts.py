"""Latency tables over HTTP, with a worker that reads them: imported, versioned, published, compared, drawn, built."""

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from httpx2 import Response

from app.store.repositories import Jobs
from lut.entry import Entry
from lut.profile import DeviceProfile
from lut.signature import OpSignature
from lut.table import LatencyTable
from secateur.lut_schemas import Lut, LutBuild
from tests.integration.api_service import Service, check, eventually, parse, put_inputs

HEADER = "batch,cin,cout,fmap_in,kernel,stride,groups,latency_us\n"
CSV = HEADER + "".join(f"4,{i},{o},14,3,1,1,{i + o}\n" for i in (32, 64) for o in (32, 64, 96))
CONV = OpSignature(kind="conv", height=8, width=8, kernel=(3, 3), padding=(1, 1), activation="relu")
numbers = itertools.count()


def table(points: dict[tuple[int, int], float], **change: Any) -> bytes:
    profile = {"hardware": "h", "runtime": "r", "runtime_version": "1", "threads": 1, "batch": 1} | change
    found = {point: Entry(p50_us=us, p90_us=us, num_samples=3) for point, us in points.items()}
    return LatencyTable(profile=DeviceProfile(**profile), entries={CONV: found}, step=8).to_bytes()


def post(service: Service, content: str | bytes, device: str, **fields: Any) -> Response:
    data = {"device": device, **{key: str(value) for key, value in fields.items()}}
    return service.client.post("/v1/luts", data=data, files={"file": ("t", content)})


def imported(service: Service, content: str | bytes, device: str, **fields: Any) -> Lut:
    answer = post(service, content, device, **fields)
    assert answer.status_code == 201, answer.text
    lut = Lut.model_validate(answer.json())
    assert answer.headers["location"] == f"/v1/luts/{lut.id}"
    return lut


@pytest.fixture
def device(service: Service) -> str:
    """A device no worker serves."""
    device_id = f"gpu{next(numbers)}"
    answer = service.client.post("/v1/devices", json={"id": device_id, "hardware": "GPU"})
    assert answer.status_code == 201 and answer.headers["location"] == f"/v1/devices/{device_id}"
    assert service.client.get(f"/v1/devices/{device_id}").json() == answer.json()
    return device_id


def test_a_published_csv_becomes_a_coarse_table_with_pictures_and_csv(service: Service, device: str) -> None:
    lut = imported(service, CSV, device, hardware="TITAN V", name="titan.csv", huge_pages="true")
    assert lut.coarse and lut.imported and (lut.num_entries, lut.step, lut.version) == (6, 32, 1)
    assert lut.profile["hardware"] == "TITAN V" and lut.profile["batch"] == 4 and lut.profile["huge_pages"] is True
    url = f"/v1/luts/{lut.id}"
    assert service.client.get(url).json() == lut.model_dump(mode="json")
    file = service.client.get(f"{url}/file")
    assert file.json()["coarse"] is True and "attachment" in file.headers["content-disposition"]
    text = service.client.get(f"{url}/file?format=csv")
    assert text.headers["content-type"] == "text/csv; charset=utf-8"
    assert text.text.replace(".0\n", "\n") == CSV
    for name in ("staircases", "heatmaps", "accuracy"):
        picture = service.client.get(f"{url}/plots/{name}.png")
        assert picture.status_code == 200 and picture.content.startswith(b"\x89PNG"), name
        assert picture.headers["content-type"] == "image/png" and "inline" in picture.headers["content-disposition"]
    files = service.files()
    assert service.client.get(f"{url}/plots/heatmaps.png").headers["etag"]
    assert service.files() == files, "what was made once is kept"
    check(service.client.get(f"{url}/plots/other.png"), 422, "invalid_request")
    page = service.client.get(f"/luts/{lut.id}").text
    assert "plots/staircases.png" in page and "coarse key" in page and "TITAN V" in page and "huge pages" in page
    assert f"/luts/{lut.id}" in service.client.get("/").text


def test_a_tables_json_comes_back_and_its_import_elsewhere_is_equal(service: Service, device: str) -> None:
    content = table({(8, 8): 1.5, (8, 16): 2.5})
    lut = imported(service, content, device)
    assert not lut.coarse and service.client.get(f"/v1/luts/{lut.id}/file").content == content
    full = service.client.get(f"/v1/luts/{lut.id}/file?format=csv").text
    other = imported(service, full, device, hardware="h", runtime="r", runtime_version="2")
    found = service.client.get(f"/v1/luts/compare?a={lut.id}&b={other.id}").json()
    assert found == {
        "a": lut.id, "b": other.id, "num_shared": 2, "only_a": 0, "only_b": 0,
        "ratio_median": 1.0, "ratio_p90": 1.0, "rank_correlation": pytest.approx(1.0),
    }  # fmt: skip
    check(service.client.get(f"/v1/luts/compare?a={lut.id}&b=x"), 404, "not_found")


def test_an_import_into_a_table_makes_a_version_and_older_ones_stay(service: Service, device: str) -> None:
    first = imported(service, table({(8, 8): 1.0, (8, 16): 2.0}), device)
    assert imported(service, table({(8, 8): 1.0}), device).version == 1, "nothing new, no version"
    second = imported(service, table({(8, 16): 3.0, (8, 32): 4.0}), device, name="more.json")
    assert (second.id, second.version, second.num_entries) == (first.id, 2, 3)
    url = f"/v1/luts/{first.id}"
    newest, oldest = service.client.get(f"{url}/versions").json()["items"]
    assert (newest["number"], newest["source"], newest["name"], newest["num_entries"]) == (2, "import", "more.json", 3)
    page = service.client.get(f"{url}/versions?limit=1").json()
    assert page["items"] == [newest]
    rest = service.client.get(f"{url}/versions?limit=1&cursor={page['next_cursor']}").json()
    assert rest == {"items": [oldest], "next_cursor": None}
    old = service.client.get(f"{url}/file?version=1")
    assert old.headers["etag"] == f'"{oldest["sha256"]}"' and len(old.json()["entries"][0]["points"]) == 2
    points = service.client.get(f"{url}/file").json()["entries"][0]["points"]
    assert {(point[1], point[2]) for point in points} == {(8, 1.0), (16, 3.0), (32, 4.0)}
    check(service.client.get(f"{url}/file?version=9"), 404, "not_found")
    check(service.client.get("/v1/luts/x/versions"), 404, "not_found")


def test_a_published_table_takes_no_import_and_is_not_deleted(service: Service, device: str) -> None:
    lut = imported(service, table({(8, 8): 1.0}), device)
    url = f"/v1/luts/{lut.id}"
    answer = service.client.post(f"{url}/publish")
    assert answer.json()["published_version"] == 1
    assert [item["id"] for item in service.client.get(f"/v1/luts?device={device}&published=true").json()["items"]] == [
        lut.id
    ]
    check(post(service, table({(8, 64): 1.0}), device), 409, "lut_published")
    check(service.client.delete(url), 409, "lut_published")
    check(service.client.post(f"{url}/publish?version=7"), 404, "not_found")
    stale = {"If-Match": '"1-0"'}
    check(service.client.post(f"{url}/unpublish", headers=stale), 412, "precondition_failed")
    fresh = {"If-Match": service.client.get(url).headers["etag"]}
    assert service.client.post(f"{url}/unpublish", headers=fresh).json()["published_version"] is None
    check(service.client.delete(f"/v1/devices/{device}"), 409, "device_in_use")
    check(service.client.delete(url, headers=fresh), 412, "precondition_failed")
    assert service.client.delete(url).status_code == 204
    check(service.client.get(url), 404, "not_found")
    assert service.client.delete(f"/v1/devices/{device}").status_code == 204
    check(service.client.get(f"/v1/devices/{device}"), 404, "not_found")
    check(service.client.delete(f"/v1/devices/{device}"), 404, "not_found")


def test_devices_have_one_name_each_and_no_tricks_in_it(service: Service, device: str) -> None:
    check(service.client.post("/v1/devices", json={"id": device}), 409, "device_exists")
    for name in ("../etc", "..", "", "a/b", "a b", "-x", "x" * 65, "a\x00", "ä"):
        check(service.client.post("/v1/devices", json={"id": name}), 422, "invalid_request")
    check(service.client.delete("/v1/devices/local"), 409, "device_in_use")


REFUSED: list[tuple[Callable[[], str | bytes], dict[str, Any], int, str]] = [
    (lambda: b"", {}, 415, "unsupported_format"),
    (lambda: b"\x80\x04\x95", {}, 415, "unsupported_format"),
    (lambda: b"PK\x03\x04" + bytes(600), {}, 415, "unsupported_format"),
    (lambda: HEADER + "\x00", {}, 415, "unsupported_format"),
    (lambda: "name,age\nx,1\n", {}, 422, "broken_table"),
    (lambda: HEADER, {}, 422, "broken_table"),
    (lambda: HEADER + "1,8,8,14,3,1,1,=cmd|' /C calc'!A0\n", {}, 422, "broken_table"),
    (lambda: HEADER + "1,8,8,14,3,1,1,5\n" * 2, {}, 422, "broken_table"),
    (lambda: b"batch" + b"\xff" * 5, {}, 422, "broken_table"),
    (lambda: CSV, {"batch": 3}, 422, "broken_table"),
    (lambda: CSV, {"threads": 0}, 422, "invalid_request"),
    (lambda: CSV, {"hardware": "nul \x00"}, 422, "invalid_request"),
    (lambda: CSV, {"colour": "red"}, 422, "invalid_request"),
    (lambda: "{" * 100_000, {}, 422, "broken_table"),
    (lambda: "{}", {}, 422, "unsupported_schema"),
    (lambda: table({(8, 8): 1.0}).replace(b'"schema_version":1', b'"schema_version":2'), {}, 422, "unsupported_schema"),
    (lambda: table({(8, 8): 1.0}).replace(b"[8,8,1.0", b"[8,8,NaN"), {}, 422, "broken_table"),
    (lambda: table({(8, 8): 1.0}).replace(b"[8,8,1.0", b"[8,8,-1.0"), {}, 422, "broken_table"),
    (lambda: table({}), {}, 422, "broken_table"),
    (lambda: HEADER + "".join(f"1,{c},8,14,3,1,1,5\n" for c in range(1, 400)), {}, 422, "broken_table"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_is_no_table_is_refused_and_leaves_nothing(service: Service, device: str, number: int) -> None:
    content, fields, status, code = REFUSED[number]
    before = service.files()
    check(post(service, content(), device, **fields), status, code)
    assert service.files() == before
    assert service.client.get(f"/v1/luts?device={device}").json()["items"] == []


def test_a_table_for_no_device_or_too_large_is_refused(service: Service) -> None:
    before = service.files()
    body = check(post(service, CSV, "nobody"), 422, "unknown_device")
    assert body["errors"][0]["pointer"] == "/device"
    check(post(service, CSV, "../local"), 422, "invalid_request")
    object.__setattr__(service.settings, "max_lut_bytes", 2000)
    try:
        check(post(service, CSV + " " * 5000, "local"), 413, "body_too_large")
    finally:
        object.__setattr__(service.settings, "max_lut_bytes", 2**26)
    assert service.files() == before


def test_a_coarse_table_and_a_full_one_are_not_mixed(service: Service, device: str) -> None:
    lut = imported(service, CSV, device, hardware="x")
    full = json.loads(service.client.get(f"/v1/luts/{lut.id}/file").text)
    del full["coarse"]
    check(post(service, json.dumps(full), device), 422, "table_mismatch")


def test_a_build_measures_a_table_tells_how_long_and_makes_a_version(service: Service) -> None:
    model = service.upload_model().json()["id"]
    body = {"model_id": model, "image_size": 32}
    answer = service.client.post("/v1/lut-builds", json=body, headers={"Idempotency-Key": "k1"})
    assert answer.status_code == 202, answer.text
    build_id = answer.json()["id"]
    url = f"/v1/lut-builds/{build_id}"
    assert answer.headers["location"] == url
    again = service.client.post("/v1/lut-builds", json=body, headers={"Idempotency-Key": "k1"})
    assert again.json()["id"] == build_id and again.headers["idempotency-replayed"] == "true"
    events = parse(service.client.get(f"{url}/events").text)
    assert next(event["data"].get("seconds_left") for event in events if event["kind"] == "progress") > 10
    build = LutBuild.model_validate(service.client.get(url).json())
    assert build.status == "succeeded" and build.summary == {"num_entries": 2} and build.progress == 1
    (used,) = build.tables
    lut = service.client.get(f"/v1/luts/{used.lut_id}").json()
    assert (lut["num_entries"], lut["imported"], lut["version"]) == (2, False, used.version)
    version = service.client.get(f"/v1/luts/{used.lut_id}/versions").json()["items"][0]
    assert version["source"] == "job" and version["job_id"] == build_id
    assert build_id in [item["id"] for item in service.client.get("/v1/lut-builds").json()["items"]]
    assert build_id not in service.client.get("/v1/prune-jobs").text
    for path in ("", "/events", "/artifacts"):
        check(service.client.get(f"/v1/prune-jobs/{build_id}{path}"), 404, "not_found")
    check(service.client.post(f"/v1/prune-jobs/{build_id}/cancel"), 404, "not_found")
    check(service.client.post(f"{url}/cancel"), 409, "job_ended")
    # What is published stays, what a build adds comes after it.
    service.client.post(f"/v1/luts/{used.lut_id}/publish")
    more = service.client.post("/v1/lut-builds", json={"model_id": model, "image_size": 40}).json()["id"]
    eventually(lambda: LutBuild.model_validate(service.client.get(f"/v1/lut-builds/{more}").json()).status.ended)
    lut = service.client.get(f"/v1/luts/{used.lut_id}").json()
    assert (lut["num_entries"], lut["version"], lut["published_version"]) == (4, 2, 1)
    service.client.post(f"/v1/luts/{used.lut_id}/unpublish")


def test_a_table_in_use_is_not_deleted_and_a_build_is_cancelled_and_retried(service: Service) -> None:
    model = service.upload_model().json()["id"]
    first = service.client.post("/v1/lut-builds", json={"model_id": model, "image_size": 48, "threads": 3}).json()["id"]
    eventually(lambda: LutBuild.model_validate(service.client.get(f"/v1/lut-builds/{first}").json()).status.ended)
    lut_id = service.client.get(f"/v1/lut-builds/{first}").json()["tables"][0]["lut_id"]
    slow = {"model_id": model, "image_size": 56, "threads": 3, "name": "slow"}
    build_id = service.client.post("/v1/lut-builds", json=slow).json()["id"]
    url = f"/v1/lut-builds/{build_id}"
    check(service.client.delete(f"/v1/luts/{lut_id}"), 409, "lut_in_use")
    eventually(lambda: service.client.get(url).json()["status"] == "running")
    assert service.client.post(f"{url}/cancel").status_code == 202
    eventually(lambda: service.client.get(url).json()["status"] == "cancelled")
    assert service.client.post(f"{url}/retry").status_code == 202
    service.client.post(f"{url}/cancel")
    eventually(lambda: service.client.get(url).json()["status"] == "cancelled")
    assert service.client.delete(f"/v1/luts/{lut_id}").status_code == 204
    check(service.client.get("/v1/lut-builds/x"), 404, "not_found")


def test_a_build_that_names_nothing_there_is_refused(idle: Service) -> None:
    body = {"model_id": "x", "device": "y", "dataset_id": "z"}
    problem = check(idle.client.post("/v1/lut-builds", json=body), 422, "unknown_model")
    assert [fault["pointer"] for fault in problem["errors"]] == ["/model_id", "/dataset_id", "/device"]
    check(idle.client.post("/v1/lut-builds", json={"model_id": "x", "sise": 3}), 422, "invalid_request")


def test_a_build_needs_a_size_that_fits(idle: Service) -> None:
    inputs = put_inputs(idle)
    check(idle.client.post("/v1/lut-builds", json={"model_id": inputs["model_id"]}), 422, "image_size_needed")
    by_dataset = {"model_id": inputs["model_id"], "dataset_id": inputs["dataset_id"]}
    assert idle.client.post("/v1/lut-builds", json=by_dataset).json()["spec"]["image_size"] == 32
    fixed = put_inputs(idle, input_shape=[3, 48, 48])["model_id"]
    assert idle.client.post("/v1/lut-builds", json={"model_id": fixed}).json()["spec"]["image_size"] == 48
    check(idle.client.post("/v1/lut-builds", json={"model_id": fixed, "image_size": 32}), 422, "shape_mismatch")
    with idle.services.database.read() as session:
        assert len(Jobs(session).page(kind="lut_build").rows) == 2


def test_without_a_worker_nothing_is_imported_drawn_or_compared(idle: Service) -> None:
    check(post(idle, CSV, "local"), 503, "no_worker")
