"""Prune jobs. A status only changes where the old one allows it, and each change leaves an event."""

import secrets
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session, make_transient_to_detached
from sqlalchemy.orm.attributes import set_committed_value

from app.store.base import database_now, new_id, table_of, values_of
from app.store.models import DEFAULT_PROJECT, PruneJobRow
from app.store.repositories.events import Events
from app.store.repositories.pages import RowPage, newest_first
from secateur.schemas import JobStatus

TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED, JobStatus.FAILED}),
    JobStatus.RUNNING: frozenset(
        {
            JobStatus.CANCELLING,
            JobStatus.SUCCEEDED,
            JobStatus.FAILED,
            JobStatus.CANCELLED,
            JobStatus.RUNNING,
            JobStatus.QUEUED,
        }
    ),
    JobStatus.CANCELLING: frozenset({JobStatus.CANCELLED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset({JobStatus.QUEUED}),
    JobStatus.CANCELLED: frozenset({JobStatus.QUEUED}),
}
"""From -> to. Queued -> failed: nobody could run it. Ended -> queued: a retry. Running -> running: taken over.

Running -> queued: begun anew, by other code than before.
"""

ACTIVE = tuple(status for status in JobStatus if not status.ended)
_NOT_BEGUN: Mapping[str, Any] = {"turn": None, "worker_id": None, "phase": None, "progress": 0.0, "summary": None}
_TABLE = table_of(PruneJobRow)
_ADD = insert(_TABLE).returning(_TABLE.c.id, _TABLE.c.created_at)


def _new_workflow_id(job_id: str) -> str:
    return f"{job_id}.{secrets.token_hex(4)}"


class Jobs:
    """The `prune_job` table."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, **values: Any) -> PruneJobRow:
        """Insert a queued job; see `new`."""
        row = self.new(**values)
        self.insert([row])
        return row

    def insert(self, rows: Sequence[PruneJobRow]) -> None:
        """Insert what `new` has made; the rows belong to the session then, defaults filled in."""
        if not rows:
            return
        stored = [values_of(row) for row in rows]
        moments: dict[str, datetime] = dict(iter(self._session.connection().execute(_ADD, stored)))
        for row, values in zip(rows, stored, strict=True):
            for name, value in values.items():
                set_committed_value(row, name, value)
            set_committed_value(row, "created_at", moments[row.id])
            make_transient_to_detached(row)
            self._session.add(row)
        Events(self._session).begin([row.id for row in rows], {"status": JobStatus.QUEUED.value})

    @staticmethod
    def new(
        *,
        name: str,
        spec: Mapping[str, Any],
        model_id: str,
        dataset_id: str | None,
        device_id: str,
        kind: str = "prune",
        project_id: str = DEFAULT_PROJECT,
        submitter: str = "",
    ) -> PruneJobRow:
        """A queued job that is not stored yet; `workflow_id` on its row is the durable workflow to start."""
        job_id = new_id("job" if kind == "prune" else "bld")
        return PruneJobRow(
            id=job_id,
            kind=kind,
            project_id=project_id,
            name=name,
            spec=dict(spec),
            model_id=model_id,
            dataset_id=dataset_id,
            device_id=device_id,
            submitter=submitter,
            priority=spec.get("priority", 0),
            workflow_id=_new_workflow_id(job_id),
        )

    def get(self, job_id: str, *, project_id: str | None = None) -> PruneJobRow | None:
        """The job as it is now, or None; also where a `project_id` is given and it is another project's."""
        row = self._session.get(PruneJobRow, job_id, populate_existing=True)
        return row if row is None or project_id in (None, row.project_id) else None

    def of_project(self, job_ids: Collection[str], project_id: str | None) -> set[str]:
        """Those of the jobs that are there and the project's; of any project for None."""
        if not job_ids:
            return set()
        query = select(PruneJobRow.id).where(PruneJobRow.id.in_(job_ids))
        if project_id is not None:
            query = query.where(PruneJobRow.project_id == project_id)
        return set(self._session.scalars(query))

    def page(
        self,
        *,
        status: Collection[JobStatus] = (),
        before: str | None = None,
        limit: int = 50,
        kind: str = "prune",
        project_id: str | None = None,
    ) -> RowPage[PruneJobRow]:
        """Newest first, optionally only those in one of `status`, or of one project."""
        query = select(PruneJobRow).where(PruneJobRow.kind == kind)
        if project_id is not None:
            query = query.where(PruneJobRow.project_id == project_id)
        if status:
            query = query.where(PruneJobRow.status.in_([s.value for s in status]))
        return newest_first(self._session, query, PruneJobRow.id, before=before, limit=limit)

    def active_of_model(self, model_id: str) -> list[str]:
        """Ids of jobs that have not ended and use this model."""
        return self._active(PruneJobRow.model_id == model_id)

    def active_of_dataset(self, dataset_id: str) -> list[str]:
        """Ids of jobs that have not ended and use this dataset."""
        return self._active(PruneJobRow.dataset_id == dataset_id)

    def active_on_device(self, device_id: str, setting: Mapping[str, Any] | None = None) -> list[str]:
        """Ids of jobs that have not ended and measure, or keep a budget, on the device.

        Only those with this `setting` (`threads`, `batch`, `runtime`), where one is given and the job names its part.
        """
        query = select(PruneJobRow.id, PruneJobRow.device_id, PruneJobRow.spec).where(PruneJobRow.status.in_(ACTIVE))
        found = []
        for job_id, own, spec in self._session.execute(query.order_by(PruneJobRow.id)):
            wanted = [{**spec, "device": own}, *spec.get("also", ())]
            if any(one["device"] == device_id and _fits(one, setting or {}) for one in wanted):
                found.append(job_id)
        return found

    def active_of_worker(self, worker_id: str) -> list[PruneJobRow]:
        """Jobs that have not ended and that this worker began last."""
        query = select(PruneJobRow).where(PruneJobRow.worker_id == worker_id, PruneJobRow.status.in_(ACTIVE))
        return list(self._session.scalars(query.order_by(PruneJobRow.id)))

    def begin(self, job_id: str, worker_id: str) -> bool:
        """Queued or running -> running on `worker_id`, one attempt more; False when the job was cancelled or ended."""
        return self._move(
            job_id,
            (JobStatus.QUEUED, JobStatus.RUNNING),
            JobStatus.RUNNING,
            {
                "worker_id": worker_id,
                "attempt": PruneJobRow.attempt + 1,
                "started_at": func.coalesce(PruneJobRow.started_at, database_now()),
            },
            {"worker_id": worker_id},
        )

    def lose_worker(self, job_id: str, worker_id: str) -> int | None:
        """Count a worker lost to the job; returns how many so far, None when another worker has the job by now."""
        query = (
            update(PruneJobRow)
            .where(PruneJobRow.id == job_id, PruneJobRow.worker_id == worker_id, PruneJobRow.status.in_(ACTIVE))
            .values(num_lost=PruneJobRow.num_lost + 1, worker_id=None)
            .returning(PruneJobRow.num_lost)
        )
        return self._session.scalar(query)

    def request_cancel(self, job_id: str) -> JobStatus | None:
        """Queued -> cancelled, running -> cancelling; returns the new status, None when neither was possible."""
        if self._move(job_id, (JobStatus.QUEUED,), JobStatus.CANCELLED, {"ended_at": database_now()}):
            return JobStatus.CANCELLED
        if self._move(job_id, (JobStatus.RUNNING,), JobStatus.CANCELLING, {}):
            return JobStatus.CANCELLING
        return None

    def requeue(self, job_id: str) -> str | None:
        """Failed or cancelled -> queued with a fresh workflow id, which is returned; None when it was neither."""
        workflow_id = _new_workflow_id(job_id)
        moved = self._move(
            job_id,
            (JobStatus.FAILED, JobStatus.CANCELLED),
            JobStatus.QUEUED,
            {
                **_NOT_BEGUN,
                "workflow_id": workflow_id,
                "num_lost": 0,
                "outcome": None,
                "failure": None,
                "started_at": None,
                "ended_at": None,
            },
        )
        return workflow_id if moved else None

    def unqueue(self, row: PruneJobRow) -> None:
        """Take a queued job off its queue; it gets another workflow when it is queued again."""
        row.turn, row.workflow_id = None, _new_workflow_id(row.id)
        self._session.flush()

    def of_workflow(self, workflow_id: str) -> PruneJobRow | None:
        """The job that this workflow runs, locked, or None."""
        query = select(PruneJobRow).where(PruneJobRow.workflow_id == workflow_id).with_for_update()
        return self._session.scalar(query)

    def begin_anew(self, job_id: str) -> bool:
        """Queued or running -> queued, on no queue, with a fresh workflow id and nothing done; no loss is counted."""
        values = {**_NOT_BEGUN, "workflow_id": _new_workflow_id(job_id), "tables": []}
        return self._move(job_id, (JobStatus.QUEUED, JobStatus.RUNNING), JobStatus.QUEUED, values)

    def succeed(self, job_id: str, *, outcome: str | None, summary: Mapping[str, Any]) -> bool:
        """Running -> succeeded."""
        values = {"outcome": outcome, "summary": dict(summary), "progress": 1.0, "ended_at": database_now()}
        event = {"outcome": outcome} if outcome else {}
        return self._move(job_id, (JobStatus.RUNNING,), JobStatus.SUCCEEDED, values, event)

    def fail(self, job_id: str, *, code: str, detail: str, errors: Sequence[Mapping[str, str]] = ()) -> bool:
        """Queued or running -> failed; `errors` are pairs of `pointer` and `detail`."""
        failure = {"code": code, "detail": detail, "errors": [dict(error) for error in errors]}
        values = {"failure": failure, "ended_at": database_now()}
        return self._move(job_id, (JobStatus.QUEUED, JobStatus.RUNNING), JobStatus.FAILED, values, {"failure": failure})

    def finish_cancel(self, job_id: str) -> bool:
        """Cancelling (or queued, or running when its workflow was cancelled) -> cancelled."""
        return self._move(job_id, ACTIVE, JobStatus.CANCELLED, {"ended_at": database_now()})

    def set_phase(self, job_id: str, phase: str) -> bool:
        """Record the phase of a running job and an event; False when it is not running any more."""
        changed = self._update_running(job_id, {"phase": phase})
        if changed:
            Events(self._session).append(job_id, "phase", {"phase": phase}, locked=True)
        return changed

    def set_progress(self, job_id: str, progress: float, seconds_left: float | None = None) -> bool:
        """Record progress in 0..1 of a running job and an event; False when it is not running any more."""
        changed = self._update_running(job_id, {"progress": min(max(progress, 0.0), 1.0)})
        if changed:
            left = {} if seconds_left is None else {"seconds_left": round(seconds_left, 1)}
            Events(self._session).append(job_id, "progress", {"progress": round(progress, 4), **left}, locked=True)
        return changed

    def set_tables(self, job_id: str, tables: Sequence[Mapping[str, Any]]) -> bool:
        """Record which versions of which latency tables the job uses; False when it is not running any more."""
        return self._update_running(job_id, {"tables": [dict(table) for table in tables]})

    def set_summary(self, job_id: str, summary: Mapping[str, Any]) -> bool:
        """Replace the headline figures of a running job; False when it is not running any more."""
        return self._update_running(job_id, {"summary": dict(summary)})

    def _active(self, condition: Any) -> list[str]:
        query = select(PruneJobRow.id).where(condition, PruneJobRow.status.in_(ACTIVE)).order_by(PruneJobRow.id)
        return list(self._session.scalars(query))

    def _update_running(self, job_id: str, values: Mapping[str, Any]) -> bool:
        query = update(PruneJobRow).where(PruneJobRow.id == job_id, PruneJobRow.status == JobStatus.RUNNING.value)
        return self._session.scalar(query.values(**values).returning(PruneJobRow.id)) is not None

    def _move(
        self,
        job_id: str,
        from_: Collection[JobStatus],
        to: JobStatus,
        values: Mapping[str, Any],
        event: Mapping[str, Any] | None = None,
    ) -> bool:
        assert all(to in TRANSITIONS[status] for status in from_ if status is not to)
        query = (
            update(PruneJobRow)
            .where(PruneJobRow.id == job_id, PruneJobRow.status.in_([status.value for status in from_]))
            .values(status=to.value, **values)
            .returning(PruneJobRow.attempt)
        )
        attempt = self._session.scalar(query)
        if attempt is None:
            return False
        data = {"status": to.value, "attempt": attempt, **(event or {})}
        Events(self._session).append(job_id, "status", data, locked=True)
        return True


def _fits(wanted: Mapping[str, Any], setting: Mapping[str, Any]) -> bool:
    return all(wanted.get(name) in (None, value) for name, value in setting.items())
