"""What every kind of job shares: submitted once under an Idempotency-Key, cancelled, retried."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated

from fastapi import Depends, Header, Request, Response
from pydantic import BaseModel
from pydantic_core import to_json
from sqlalchemy.exc import IntegrityError, InterfaceError, OperationalError, TimeoutError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from structlog.contextvars import get_contextvars

from app.auth.access import ENDED, Access
from app.auth.keys import refused
from app.auth.limits import check_jobs
from app.auth.trail import record_all
from app.errors import ApiProblem, NotFound
from app.scheduling import Joining, schedule, submit
from app.services import Services
from app.store.models import DeviceRow, PruneJobRow
from app.store.repositories import Datasets, Idempotency, Jobs, Keys, Models
from app.together import Together
from app.tracing import current_traceparent
from secateur.schemas import JobStatus
from secateur.wire import Scheduled

NOUNS = {"prune": "job", "lut_build": "table build"}

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Any string of yours: sent again with the same body within 24 hours it gets the same answer.",
    ),
]

Make = Callable[[Session], tuple[PruneJobRow, DeviceRow]]
"""Makes the job (`Jobs.new`), and finds its device, once everything it needs is locked in the given transaction."""
Show = Callable[[PruneJobRow], BaseModel]


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A job that somebody wants."""

    who: Access
    path: str
    spec: Scheduled
    make: Make
    show: Show
    request_id: str
    traceparent: str


Submissions = Together[Submission, PruneJobRow]
"""Jobs that are submitted at the same time are added together."""


async def get_submissions(request: Request) -> Submissions:
    """FastAPI dependency."""
    submissions: Submissions = request.app.state.submissions
    return submissions


SubmissionsDep = Annotated[Submissions, Depends(get_submissions)]


async def submit_once(
    services: Services,
    submissions: Submissions,
    who: Access,
    path: str,
    spec: Scheduled,
    key: str | None,
    make: Make,
    show: Show,
) -> Response:
    """Answer 202 with the job that `make` makes, or, for a key that came before with the same body, the first answer."""
    # What the workers log of the job is found by the request that made it, and its spans belong to that trace.
    one = Submission(
        who=who, path=path, spec=spec, make=make, show=show,
        request_id=get_contextvars().get("request_id", ""), traceparent=current_traceparent(),
    )  # fmt: skip
    if key is not None:
        return await run_in_threadpool(_submit_under_key, services, one, key)
    row = await submissions(one)
    return _accepted(f"{path}/{row.id}", show(row).model_dump_json().encode())


def add_together(services: Services, wanted: Sequence[Submission]) -> list[PruneJobRow | Exception]:
    """Add what is wanted in one transaction; what has something against it is answered with that and leaves the others alone."""
    try:
        with services.database.write() as session:
            return _add(session, services, wanted)
    except (OperationalError, InterfaceError, TimeoutError):
        raise  # the database's fault
    except Exception:  # does not say whose fault it is
        if len(wanted) == 1:
            raise
    return [_add_alone(services, one) for one in wanted]


def _add_alone(services: Services, one: Submission) -> PruneJobRow | Exception:
    try:
        return add_together(services, [one])[0]
    except Exception as error:  # noqa: BLE001 - is raised where it belongs
        return error


def _add(session: Session, services: Services, wanted: Sequence[Submission]) -> list[PruneJobRow | Exception]:
    live = Keys(session).live({one.who.key.id for one in wanted if one.who.key is not None})
    found: dict[int, PruneJobRow | Exception] = {}
    jobs: dict[int, Joining] = {}
    # Projects may be locked: by all processes in the same order, but for an administrator's jobs of other projects.
    for place, one in sorted(enumerate(wanted), key=lambda numbered: numbered[1].who.project_id):
        try:
            if one.who.key is not None and one.who.key.id not in live:
                raise refused(ENDED)
            row, device = one.make(session)
            num_joining = sum(job.row.project_id == row.project_id for job in jobs.values())
            known = one.who.limits_of(row.project_id)
            check_jobs(session, services.settings, row.project_id, known=known, num_joining=num_joining)
        except ApiProblem as problem:
            found[place] = problem
            continue
        row.request_id, row.traceparent = one.request_id, one.traceparent
        jobs[place] = Joining(row=row, device=device, after=one.spec.after)
    submit(session, services.queue, jobs.values())
    for place, job in jobs.items():
        one = wanted[place]
        # One that waits in vain has failed by now.
        found[place] = require_job(session, one.who, job.row.id, job.row.kind) if job.after else job.row
    record_all(session, {job.row.id: wanted[place].who.trail for place, job in jobs.items()})
    return [found[place] for place in range(len(wanted))]


def _submit_under_key(services: Services, one: Submission, key: str) -> Response:
    for last_try in (False, True):
        try:
            return _first_answer(services, one, key)
        except (IntegrityError, ApiProblem) as error:
            # Another request may have used the key since we looked, and the project's last job: its answer is there now.
            if last_try or (isinstance(error, ApiProblem) and error.problem.code != "job_quota"):
                raise
    raise AssertionError("unreachable")


def _first_answer(services: Services, one: Submission, key: str) -> Response:
    route, max_age_s = f"POST {one.path}", services.settings.idempotency_hours * 3600
    body_sha256 = hashlib.sha256(one.spec.model_dump_json().encode()).hexdigest()
    with services.database.write() as session:
        answers = Idempotency(session, one.who.project_id)
        answers.delete_old(max_age_s)
        first = answers.find(route, key, max_age_s=max_age_s)
        if first is not None:
            if first.body_sha256 != body_sha256:
                raise ApiProblem("idempotency_key_reused", "This Idempotency-Key came with another body before.")
            one.who.check(session)
            return _accepted(first.location, to_json(first.body), {"Idempotency-Replayed": "true"})
        (row,) = _add(session, services, [one])
        if isinstance(row, Exception):
            raise row
        body, location = one.show(row).model_dump(mode="json"), f"{one.path}/{row.id}"
        answers.add(route, key, body_sha256=body_sha256, status=202, location=location, body=body)
    return _accepted(location, to_json(body))


def _accepted(location: str, body: bytes, headers: Mapping[str, str] = MappingProxyType({})) -> Response:
    return Response(body, status_code=202, media_type="application/json", headers={"Location": location, **headers})


def require_job(session: Session, who: Access, job_id: str, kind: str = "prune") -> PruneJobRow:
    """The row as it is now; raises 404 for none, for a job of another kind, and for another project's."""
    row = Jobs(session).get(job_id, project_id=who.sees)
    if row is None or row.kind != kind:
        raise NotFound(NOUNS[kind], job_id)
    return row


def cancel_job(services: Services, who: Access, job_id: str, kind: str = "prune") -> PruneJobRow:
    """Stop the job: a queued one at once, a running one as soon as its worker has. Raises 409 for one that has ended."""
    with services.database.write() as session:
        require_job(session, who, job_id, kind)
        changed = Jobs(session).request_cancel(job_id)
        row = require_job(session, who, job_id, kind)
        if changed is None and row.status != JobStatus.CANCELLING:
            raise ApiProblem("job_ended", f"Job {job_id} has ended as {row.status}; there is nothing to cancel.")
        who.record(session)
    if row.turn is not None:
        services.queue.cancel(row.workflow_id)
    return row


def retry_job(services: Services, who: Access, job_id: str, kind: str = "prune") -> PruneJobRow:
    """Queue a failed or cancelled job once more, under its id. Raises 409 for another one."""
    with services.database.write() as session:
        row = require_job(session, who, job_id, kind)
        if row.status not in (JobStatus.FAILED, JobStatus.CANCELLED):
            raise ApiProblem(
                "job_not_retryable", f"Job {job_id} is {row.status}; only failed and cancelled jobs are retried."
            )
        if not _inputs_exist(session, row):
            raise ApiProblem("input_deleted", f"The model or dataset of job {job_id} was deleted; submit a new job.")
        check_jobs(session, services.settings, row.project_id)
        if Jobs(session).requeue(job_id) is None:
            raise ApiProblem("job_not_retryable", f"Job {job_id} was retried a moment ago.")
        schedule(session, services.queue, require_job(session, who, job_id, kind))
        who.record(session)
        return require_job(session, who, job_id, kind)


def named(session: Session, who: Access, job_ids: Sequence[str]) -> str:
    """The first of the jobs, by its id where the caller may know it."""
    own = Jobs(session).of_project(job_ids, who.sees)
    shown = [job_id for job_id in job_ids if job_id in own]
    return f"Job {shown[0]}" if shown else "A job of another project"


def _inputs_exist(session: Session, row: PruneJobRow) -> bool:
    """True when all inputs are there; they stay there until `session` commits."""
    model = row.model_id is not None and Models(session).get(row.model_id, share=True) is not None
    if not model or row.kind != "prune":
        return model
    return row.dataset_id is not None and Datasets(session).get(row.dataset_id, share=True) is not None
