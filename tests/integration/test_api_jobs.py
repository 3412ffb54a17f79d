"""Jobs with a worker: run, followed, cancelled, retried, their results downloaded."""

from tests.integration.api_service import Service, check, eventually, parse


def test_a_job_runs_and_leaves_plan_report_and_files(service: Service) -> None:
    job_id = service.submit()
    job = service.ended(job_id)
    assert (job.status, job.outcome, job.progress) == ("succeeded", "budget_met", 1.0)
    assert job.summary == {"dense_ms": 2.0, "measured_ms": 1.0}
    url = f"/v1/prune-jobs/{job_id}"
    names = [item["name"] for item in service.client.get(f"{url}/artifacts").json()["items"]]
    assert names == ["plan.json", "report.html", "report.json"]
    assert service.client.get(f"{url}/plan").json() == {"value": 1}
    assert service.client.get(f"{url}/report").json() == {"verdict": "met"}
    for answer in (
        service.client.get(f"{url}/report?format=html"),
        service.client.get(f"{url}/report", headers={"Accept": "text/html,*/*;q=0.8"}),
    ):
        assert answer.text.startswith("<h1>met") and answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "sandbox" in answer.headers["content-security-policy"]
    check(service.client.get(f"{url}/artifacts/model.onnx"), 404, "not_found")
    check(service.client.post(f"{url}/cancel"), 409, "job_ended")
    check(service.client.post(f"{url}/retry"), 409, "job_not_retryable")
    assert "budget met" in service.client.get(f"/jobs/{job_id}").text


def test_a_download_can_go_on_where_it_broke(service: Service) -> None:
    job_id = service.submit()
    service.ended(job_id)
    url = f"/v1/prune-jobs/{job_id}/artifacts/report.html"
    whole = service.client.get(url)
    etag = whole.headers["etag"]
    assert (
        "attachment" in whole.headers["content-disposition"] and "sandbox" in whole.headers["content-security-policy"]
    )
    part = service.client.get(url, headers={"Range": "bytes=5-", "If-Range": etag})
    assert part.status_code == 206 and part.content == whole.content[5:]
    other = service.client.get(url, headers={"Range": "bytes=5-", "If-Range": '"other"'})
    assert other.status_code == 200 and other.content == whole.content
    assert service.client.get(url, headers={"Range": "bytes=-5"}).content == whole.content[-5:]
    assert service.client.get(url, headers={"Range": "bytes=2-4"}).content == whole.content[2:5]
    for outside in ("bytes=9999-", "bytes=-0"):
        answer = service.client.get(url, headers={"Range": outside})
        check(answer, 416, "range_not_satisfiable")
        assert answer.headers["content-range"] == f"bytes */{len(whole.content)}"
    for ignored in ("bytes=4-2", "lines=1-2", "bytes=a-b", "bytes=0-1,3-4", "bytes=-"):
        answer = service.client.get(url, headers={"Range": ignored})
        assert answer.status_code == 200 and answer.content == whole.content
    same = service.client.get(url, headers={"If-None-Match": f'"x", {etag}'})
    assert same.status_code == 304 and not same.content and same.headers["etag"] == etag


def test_a_problem_of_a_job_is_its_failure_and_a_retry_runs_it_again(service: Service) -> None:
    job_id = service.submit(name="bad")
    job = service.ended(job_id)
    assert job.status == "failed" and job.failure is not None
    assert (job.failure.code, job.attempt) == ("bad_budget", 1)
    answer = service.client.post(f"/v1/prune-jobs/{job_id}/retry")
    assert answer.status_code == 202 and answer.json()["status"] == "queued" and answer.json()["failure"] is None
    again = service.ended(job_id)
    assert (again.status, again.attempt) == ("failed", 2)


def test_a_running_job_is_cancelled_and_its_inputs_are_kept_until_then(service: Service) -> None:
    spec = service.spec(name="slow")
    job_id = service.client.post("/v1/prune-jobs", json=spec).json()["id"]
    eventually(lambda: service.job(job_id).status == "running")
    check(service.client.delete(f"/v1/models/{spec['model_id']}"), 409, "model_in_use")
    check(service.client.delete(f"/v1/datasets/{spec['dataset_id']}"), 409, "dataset_in_use")
    answer = service.client.post(f"/v1/prune-jobs/{job_id}/cancel")
    assert answer.status_code == 202 and answer.json()["status"] == "cancelling"
    assert service.client.post(f"/v1/prune-jobs/{job_id}/cancel").status_code in (202, 409)
    assert service.ended(job_id).status == "cancelled"
    assert service.client.delete(f"/v1/models/{spec['model_id']}").status_code == 204
    check(service.client.post(f"/v1/prune-jobs/{job_id}/retry"), 409, "input_deleted")


def test_a_preflight_is_answered_by_a_worker_and_stores_nothing(service: Service) -> None:
    spec = service.spec()
    before = service.client.get("/v1/prune-jobs").json()
    answer = service.client.post("/v1/prune-jobs/validate", json=spec)
    assert answer.status_code == 200, answer.text
    assert answer.json()["ok"] and answer.json()["blockers"][0]["detail"] == "cat,1"
    assert service.client.get("/v1/prune-jobs").json() == before
    check(service.client.post("/v1/prune-jobs/validate", json=spec | {"classes": ["cow"]}), 422, "unknown_class")


def test_the_events_of_a_job_stream_to_its_end_and_again_from_any_id(service: Service) -> None:
    job_id = service.submit()
    url = f"/v1/prune-jobs/{job_id}/events"
    with service.client.stream("GET", url) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        live = parse("".join(answer.iter_text()))
    assert [event["id"] for event in live] == sorted({event["id"] for event in live})
    statuses = [event["data"]["status"] for event in live if event["kind"] == "status"]
    assert statuses == ["queued", "running", "succeeded"] and live[-1]["kind"] == "status"
    middle = live[len(live) // 2]["id"]
    again = service.client.get(url, headers={"Last-Event-ID": str(middle)})
    assert parse(again.text) == [event for event in live if event["id"] > middle]
    page = service.client.get(f"{url}?after={middle}&limit=2").json()
    assert page["items"] == [event for event in live if event["id"] > middle][:2]
    assert page["next_cursor"] == str(page["items"][-1]["id"])
    last = service.client.get(f"{url}?after={live[-1]['id']}").json()
    assert last == {"items": [], "next_cursor": None}
    check(service.client.get(url, headers={"Last-Event-ID": "x"}), 422, "invalid_request")
