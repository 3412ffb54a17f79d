"""A worker's host drops out of the network in the middle of a step, and comes back."""

import fcntl
import json
import subprocess
import time
import urllib.request
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text

from tests.buckets import bucket_settings
from tests.hosts.lab import Host, Lab
from tests.integration.engine_service import Service, eventually, lives, slot_of

TICKS = 5
EXIT_LOST = 75


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is cut, when, and what the zombie does."""

    name: str
    how: str
    """`down` or `silent`, see Lab.cut."""
    hold: int = 3
    """Ticks that are done and stored before the cut; with all of them, the zombie has a result to deliver."""
    deaf: bool = False
    """True: the zombie ignores that it was declared dead, so what it has to write is written, or refused."""
    heals: bool = True
    """False: it stays cut off until it gives up by itself."""
    settings: dict[str, Any] = field(default_factory=dict)
    recovery_s: float = 12.0
    """Most time from the cut to the end of the job elsewhere. A transaction that the cut interrupts holds up to 5 s of it."""


@dataclass(kw_only=True)
class Site:
    """A service on the server, an API beside it, and a worker on each host."""

    lab: Lab
    service: Service
    folder: Path
    api: "subprocess.Popen[str]"
    workers: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def start(self, number: int, *options: str) -> None:
        """Start the worker of a host, with folders of its own, in the slot of the host's number."""
        host = self.lab.hosts[number]
        worker = self.service.start_worker(
            slot=number, locks=f"{host.name}/locks", log=self.log(host), host=host.prefix, options=options,
            home=self.folder / host.name / "home",
        )  # fmt: skip
        self.workers[number : number + 1] = [worker]

    def log(self, host: Host) -> Path:
        """What the host's worker logs."""
        return self.folder / f"{host.name}.log"

    def actions(self, host: Host) -> list[str]:
        """The `action` of every line that the host's worker has logged."""
        lines = [line for line in self.log(host).read_text().splitlines() if line.startswith("{")]
        return [str(json.loads(line).get("action")) for line in lines]

    def device_is_free(self, host: Host) -> bool:
        """Whether nobody on the host holds the device."""
        with (self.folder / host.name / "locks" / "device-local.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def record(self, job_id: str) -> dict[str, Any]:
        """Everything there is to know about a job: its row, its events as the API tells them, its files."""
        job = self.service.job(job_id)
        fields = {column.name: getattr(job, column.name) for column in job.__table__.columns}
        with urllib.request.urlopen(
            f"{self.service.api_url}/v1/prune-jobs/{job_id}/events?after=0&limit=200", timeout=10
        ) as answer:
            events = json.load(answer)
        files = {hidden: self.service.artifacts(job_id, hidden=hidden) for hidden in (False, True)}
        return {"job": fields, "events": events, "files": files}


def run(lab: Lab, case: Case, folder: Path, database_url: str, endpoint: str) -> dict[str, float]:
    """Run a case; return how long what took, in seconds. Raises AssertionError where a promise is broken."""
    bucket = bucket_settings(endpoint, folder / "home")
    store = {name: getattr(bucket, name) for name in bucket.model_fields_set if name.startswith("store_")}
    store["store_secret_access_key"] = bucket.store_secret_access_key.get_secret_value()
    service = Service(folder, database_url, **{"worker_cut_off_s": 6, **store, **case.settings})
    try:
        site = Site(lab=lab, service=service, folder=folder, api=service.start_api())
        try:
            return _run(site, case)
        finally:
            site.api.terminate()
            site.api.wait(30)
    finally:
        for host in lab.hosts:
            lab.heal(host)
        service.close()


def _run(site: Site, case: Case) -> dict[str, float]:
    service, lab = site.service, site.lab
    options = ["--deaf"] if case.deaf else []
    for number in (0, 1):
        site.start(number, *options)
    eventually(lambda: len(service.live_workers()) == 2, "two workers")
    job_id = service.submit(ticks=TICKS, hold=case.hold, act="gate")
    child = service.held(job_id)
    eventually(lambda: len(service.events(job_id, "metric")) == case.hold, "the last tick's figures")
    number = slot_of(service, job_id)
    victim, worker = lab.hosts[number], site.workers[number]
    assert (service.job(job_id).worker_id or "").startswith(f"{victim.name}/"), "the hosts have names of their own"

    lab.cut(victim, case.how)
    cut_at = time.monotonic()
    service.go()
    # The zombie's step goes on by itself, and has something to write before anybody takes its job.
    deed = ("worked",) if case.hold == TICKS else ("tick", str(case.hold))
    eventually(lambda: any(int(line[-1]) == child for line in service.ledger(*deed)), "the zombie's deed")
    assert not service.job(job_id).num_lost, "the other host was faster than the zombie"
    service.ended(job_id)
    took = {"moved_s": time.monotonic() - cut_at}
    _assert_done_once(site, job_id, case, child)
    assert took["moved_s"] <= case.recovery_s, f"it took {took['moved_s']:.1f} s"
    before = site.record(job_id)

    if case.heals:
        lab.heal(victim)
        healed_at = time.monotonic()
        if case.deaf:
            eventually(lambda: "fenced" in site.actions(victim), "the refusal of what the zombie writes")
            took["refused_s"] = time.monotonic() - healed_at
        else:
            assert worker.wait(30) == EXIT_LOST
            took["left_s"] = time.monotonic() - healed_at
    else:
        assert worker.wait(60) == EXIT_LOST
        took["gave_up_s"] = time.monotonic() - cut_at
    eventually(lambda: not lives(child), "the end of the zombie's child")
    eventually(partial(site.device_is_free, victim), "the device of the zombie's host")
    took["device_free_s"] = time.monotonic() - cut_at
    assert site.record(job_id) == before, "the zombie changed its former job"
    _assert_done_once(site, job_id, case, child)
    if not case.deaf:
        lab.heal(victim)
        took["rejoined_s"] = _rejoin(site, number)
    assert site.record(job_id) == before
    return took


def _rejoin(site: Site, number: int) -> float:
    """Start the host's worker again and have it alone do a job; return how long that took."""
    started_at = time.monotonic()
    other = site.workers[1 - number]
    other.terminate()
    assert other.wait(30) == 0
    site.start(number)
    job_id = site.service.submit()
    assert site.service.ended(job_id).status == "succeeded"
    assert (site.service.job(job_id).worker_id or "").startswith(f"{site.lab.hosts[number].name}/")
    return time.monotonic() - started_at


def _assert_done_once(site: Site, job_id: str, case: Case, zombie: int) -> None:
    """The job ended once and well, went on from the last checkpoint, and holds nothing of what the zombie did since."""
    service, job = site.service, site.service.job(job_id)
    assert (job.status, job.outcome, job.num_lost) == ("succeeded", "budget_met", 1), (job.status, job.failure)
    assert job.summary == {"budget_ms": 1.5, "measured_ms": 1.25, "accuracy": 0.5}
    assert [event.data["status"] for event in service.events(job_id, "status")].count("succeeded") == 1
    ticks = [event.data["tick"] for event in service.events(job_id, "metric")]
    assert ticks == list(range(TICKS)), f"an event was lost or told twice: {ticks}"
    progress = [event.data["progress"] for event in service.events(job_id, "progress")]
    assert progress == sorted(progress) and progress[-1] == 1.0
    heirs = [line for line in service.ledger("tick") if int(line[-1]) != zombie]
    assert [int(line[1]) for line in heirs] == list(range(case.hold, TICKS)), "the heir did not go on where it should"
    assert service.artifacts(job_id, hidden=False) == ["work.json"]
    assert not [name for name in service.artifacts(job_id, hidden=True) if name.startswith("checkpoint/")]


def new_database(server: str, name: str) -> str:
    """URL of an empty database of its own."""
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    engine.dispose()
    return server.rpartition("/")[0] + f"/{name}"
