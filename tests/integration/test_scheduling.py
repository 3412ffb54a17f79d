"""Which job runs when: priorities, turns, dependencies, time limits; with real workers, on SQLite and Postgres."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.engine_service import Service, eventually


@pytest.fixture
def service(tmp_path: Path, empty_url: str) -> Iterator[Service]:
    """An empty service without a worker."""
    service = Service(tmp_path, empty_url)
    yield service
    service.close()


def order(service: Service, jobs: list[str]) -> list[str]:
    """The jobs as they were begun."""
    for job_id in jobs:
        assert service.ended(job_id).status == "succeeded"
    begun = {job_id: service.job(job_id).started_at for job_id in jobs}
    return sorted(jobs, key=lambda job_id: str(begun[job_id]))


def test_jobs_of_a_higher_priority_go_first_and_equals_as_they_came(service: Service) -> None:
    jobs = [service.submit(ticks=1, priority=priority) for priority in (0, -10, 10, 0, 5)]
    service.start_worker()
    assert order(service, jobs) == [jobs[index] for index in (2, 4, 0, 3, 1)]


def test_who_has_many_jobs_waiting_takes_turns_with_who_has_few(service: Service) -> None:
    many = [service.submit(ticks=1, submitter="many") for _ in range(6)]
    few = [service.submit(ticks=1, submitter="few") for _ in range(2)]
    service.start_worker()
    begun = order(service, many + few)
    assert begun[:4] == [many[0], few[0], many[1], few[1]] and begun[4:] == many[2:]


def test_a_job_runs_after_those_it_names(service: Service) -> None:
    first = service.submit(ticks=2, tick_s=0.2)
    build = service.submit(ticks=1, kind="lut_build")
    last = service.submit(ticks=1, after=[first, build], priority=10)
    assert service.job(last).phase == "waiting"
    service.start_worker()
    assert service.ended(last).status == "succeeded"
    ends = [service.job(job_id).ended_at for job_id in (first, build)]
    begun = service.job(last).started_at
    assert begun is not None and all(end is not None and end <= begun for end in ends)
    phases = [event.data["phase"] for event in service.events(last, "phase")]
    assert phases == ["waiting", "validating", "finetuning", "exporting"]
    assert [event.data["needs"] for event in service.events(last, "log") if "needs" in event.data] == [first, build]


def test_a_job_whose_dependency_fails_fails_and_so_does_what_waits_for_it(service: Service) -> None:
    first = service.submit(act="problem")
    second = service.submit(after=[first])
    third = service.submit(after=[second])
    service.start_worker()
    for job_id, needed in ((second, first), (third, second)):
        failure = service.ended(job_id).failure
        assert failure is not None and failure["code"] == "dependency_failed" and needed in failure["detail"]
    assert service.job(third).attempt == 0


def test_a_job_whose_dependency_is_cancelled_fails_at_once(service: Service) -> None:
    first = service.submit()
    service.cancel(first)
    failure = service.job(service.submit(after=[first])).failure
    assert failure is not None and failure["code"] == "dependency_failed" and "cancelled" in failure["detail"]


def test_a_waiting_job_can_be_cancelled(service: Service) -> None:
    first = service.submit(ticks=3, tick_s=0.2)
    second = service.submit(after=[first])
    service.cancel(second)
    service.start_worker()
    assert service.ended(first).status == "succeeded"
    assert (service.job(second).status, service.job(second).attempt) == ("cancelled", 0)


def test_a_job_waits_for_the_running_build_of_a_table_it_needs(service: Service) -> None:
    service.start_worker(slot=0)
    build = service.submit(hold=1, act="gate", kind="lut_build")
    service.wait_for("held")
    service.start_worker(slot=1)
    eventually(lambda: len(service.live_workers()) == 2, "two workers")
    job_id, other = service.submit(ticks=1), service.submit(ticks=1, batch=8)
    eventually(lambda: service.job(job_id).phase == "waiting", "the wait")
    assert service.ended(other).status == "succeeded", "a job on another table does not wait"
    service.go()
    assert service.ended(job_id).status == "succeeded"
    ended, begun = service.job(build).ended_at, service.job(job_id).started_at
    assert ended is not None and begun is not None and ended <= begun
    assert service.job(job_id).attempt == 1
    assert any(f"the table build {build}" in event.data["text"] for event in service.events(job_id, "log"))


def test_a_job_that_waits_for_a_build_runs_also_when_the_build_fails(service: Service) -> None:
    service.start_worker(slot=0)
    build = service.submit(ticks=100, tick_s=0.2, kind="lut_build")
    service.wait_for("tick", "1")
    service.start_worker(slot=1)
    job_id = service.submit(ticks=1)
    eventually(lambda: service.job(job_id).phase == "waiting", "the wait")
    service.cancel(build)
    assert service.ended(job_id).status == "succeeded"


def test_a_jobs_time_counts_from_its_start_and_ends_it(service: Service) -> None:
    slow = service.submit(ticks=6, tick_s=0.5)
    job_id = service.submit(ticks=1000, tick_s=0.05, timeout_minutes=1 / 60)
    in_time = service.submit(ticks=1, timeout_minutes=0.5)
    service.start_worker()
    assert service.ended(slow).status == "succeeded"
    job = service.ended(job_id)
    assert job.failure is not None and job.failure["code"] == "timed_out"
    assert job.ended_at is not None and job.started_at is not None
    assert 0.9 < (job.ended_at - job.started_at).total_seconds() < 10
    assert service.ended(in_time).status == "succeeded", "it waited longer than its time, but did not run longer"
