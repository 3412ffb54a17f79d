"""The API's side of the job engine, and the only file of this room that knows it (DBOS)."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from dbos import DBOS, DBOSClient, EnqueueOptions, WorkflowHandle
from dbos import DBOSPortableJSONSerializer as PortableJsonSerializer
from sqlalchemy.orm import Session

from app.store.base import new_id
from app.store.sessions import IDLE_TRANSACTION_TIMEOUT_S, postgres_url

INSPECT_QUEUE = "inspect"
AGENTS_QUEUE = "agents"
"""Jobs that measure on devices with agents wait here for any worker."""
INSPECT_WORKFLOW = "inspect"
PRUNE_WORKFLOW = "prune"
HIGHEST_PRIORITY = 10
TURNS = 10**8
"""Turns of one priority that the engine can tell apart: it takes whole numbers up to 2**31 - 1, the smallest first."""
_FORGET_BATCH = 500


class QueueError(RuntimeError):
    """The workflow ended without a result: it was cancelled or a worker broke."""


def device_queue(device_id: str) -> str:
    """Name of the queue that workers of this device listen to."""
    return f"device:{device_id}"


def migrate_queue(url: str) -> None:
    """Create or update the engine's own tables; safe when several processes do so at once."""
    DBOS.migrate(postgres_url(url))


class Queue:
    """Puts work on the queues, inside our own transactions where a row goes with it."""

    def __init__(self, url: str, *, version: str) -> None:
        """Connect lazily to the (migrated) database at `url`; `version` is the one that workers must have."""
        self._client = DBOSClient(
            system_database_url=postgres_url(url),
            serializer=PortableJsonSerializer(),
            lazy=True,
            sys_db_idle_transaction_timeout_sec=IDLE_TRANSACTION_TIMEOUT_S,
            # A lost database is a 503 now, not a request that hangs until it is back.
            retry_connection_errors=False,
        )
        self._version = version

    def enqueue_prune(
        self, session: Session, *, job_id: str, workflow_id: str, queue: str, priority: int = 0, turn: int = 0
    ) -> None:
        """Queue the job in the transaction of `session`, so that both happen or neither.

        Jobs of a higher `priority` (-10..10) go first, among equals those of a smaller `turn`.
        """
        options: EnqueueOptions = {
            "workflow_name": PRUNE_WORKFLOW,
            "queue_name": queue,
            "workflow_id": workflow_id,
            "app_version": self._version,
            "priority": 1 + (HIGHEST_PRIORITY - priority) * TURNS + min(turn, TURNS - 1),
        }
        self._client.enqueue_in_transaction(session, options, job_id)

    def start_inspect(self, kind: str, payload: Mapping[str, Any], *, timeout_s: float) -> str:
        """Queue a check for any worker, given up after `timeout_s`; returns its id for `inspect_result`."""
        options: EnqueueOptions = {
            "workflow_name": INSPECT_WORKFLOW,
            "queue_name": INSPECT_QUEUE,
            "workflow_id": new_id("ins"),
            "app_version": self._version,
            "workflow_timeout": timeout_s,
        }
        handle: WorkflowHandle[Any] = self._client.enqueue(options, kind, dict(payload))
        return handle.get_workflow_id()

    def inspect_result(self, inspect_id: str) -> dict[str, Any] | None:
        """The verdict, `{"ok": ...}` or `{"problem": ...}`; None while there is none. Raises QueueError."""
        status = self._client.retrieve_workflow(inspect_id).get_status()
        if status.status == "SUCCESS":
            return dict(status.output or {})
        if status.status not in ("ENQUEUED", "PENDING", "DELAYED"):
            raise QueueError(f"the check ended as {status.status.lower()}: {status.error}")
        return None

    def cancel(self, workflow_id: str) -> None:
        """Stop a workflow: a queued one is never begun, a running one is interrupted by its worker."""
        self._client.cancel_workflow(workflow_id)

    def forget_ended(self, max_age_s: float, *, dry_run: bool = False) -> int:
        """Delete the engine's records of workflows that ended longer ago; returns how many."""
        before = (datetime.now(UTC) - timedelta(seconds=max_age_s)).isoformat()
        num_gone = 0
        while True:
            rows = self._client.list_workflows(
                status=["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"],
                completed_before=before,
                limit=_FORGET_BATCH,
                offset=num_gone if dry_run else 0,
                load_input=False,
                load_output=False,
            )
            if rows and not dry_run:
                self._client.delete_workflows([row.workflow_id for row in rows])
            num_gone += len(rows)
            if len(rows) < _FORGET_BATCH:
                return num_gone

    def close(self) -> None:
        """Give back every connection."""
        self._client.destroy()
