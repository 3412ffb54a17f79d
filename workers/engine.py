"""The worker's side of the job engine, and the only file of this room that knows it (DBOS).

A workflow is run again from its start after a crash; durable steps that were recorded answer from their record. The
engine fences an executor that lost a workflow, so a zombie can record nothing; our own rows are fenced by the journal.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import structlog
from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer
from dbos import error as dbos_error

from app.store.sessions import IDLE_TRANSACTION_TIMEOUT_S, postgres_url
from workers.fence import Fenced, JobCancelled, passes
from workers.inspect import inspect
from workers.process import Stopping
from workers.reaper import Running
from workers.reconnect import patient_engine
from workers.runner import Runner, described
from workers.view import JobView

log = structlog.get_logger(__name__)

APPLICATION = "secateur"
INSPECT_QUEUE = "inspect"
AGENTS_QUEUE = "agents"
JOBS_ON_AGENTS = 4
"""Jobs on devices with agents that one worker runs at once: most of their time they wait for a device."""
POLL_S = 0.2
POOL_SIZE = 5


def device_queue(device_id: str) -> str:
    """Return the name of the queue on which jobs of this device class wait."""
    return f"device:{device_id}"


class Engine:
    """Takes workflows from the queues of one worker and runs them on the event loop that launched it.

    One engine per process: DBOS keeps its state in the module. What blocks here must not be called on the loop.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        url: str,
        version: str,
        worker_id: str,
        device_id: str,
        inspect_timeout_s: float,
        log_level: str,
    ) -> None:
        """`version` stamps workflows: workers take only their own, so it must not change with every deploy."""
        self._runner = runner
        self._worker_id = worker_id
        self._inspect_timeout_s = inspect_timeout_s
        self._queues = {INSPECT_QUEUE: 1, AGENTS_QUEUE: JOBS_ON_AGENTS, device_queue(device_id): 1}
        self._jobs: dict[str, JobView] = {}
        self._version = version
        self._begun = Counter[str]()
        """How often this worker runs each workflow: once, or, while one that was taken from it ends, twice."""
        self._missed: set[str] = set()
        """Workflows that the engine said this worker runs and it did not, when last asked."""
        self._connections = patient_engine(url, pool_size=POOL_SIZE)
        config: DBOSConfig = {
            "name": APPLICATION,
            "system_database_url": postgres_url(url),
            "system_database_engine": self._connections,
            "application_version": version,
            "executor_id": worker_id,
            "serializer": DBOSPortableJSONSerializer(),
            "run_migrations": False,
            "log_level": "WARNING" if log_level == "INFO" else log_level,
            "sys_db_pool_size": POOL_SIZE,
            "sys_db_idle_transaction_timeout_sec": IDLE_TRANSACTION_TIMEOUT_S,
        }
        self._dbos = DBOS(config=config)
        logging.getLogger("dbos").addFilter(_is_no_cancel)
        self._register()
        DBOS.listen_queues(list(self._queues))

    def _register(self) -> None:
        # Functions, because DBOS marks what it registers, and a bound method cannot be marked.
        @DBOS.workflow(name="prune", max_recovery_attempts=None)
        async def prune(job_id: str) -> dict[str, Any]:
            with self._begin():
                try:
                    return await self._prune(job_id)
                except Exception as error:
                    if not passes(error):
                        raise
                    # Not even the failure could be recorded. The job stays this worker's, which takes it up again (`adrift`).
                    log.warning("execution broke", action="job_broken", job_id=job_id, error=str(error))
                    raise _over(job_id, error) from error

        @DBOS.workflow(name="inspect", max_recovery_attempts=None)
        async def look(kind: str, payload: dict[str, Any]) -> dict[str, Any]:
            with self._begin():
                return await self._inspect(kind, payload)

    @contextmanager
    def _begin(self) -> Iterator[None]:
        """Know, while the block runs, that this worker runs the workflow."""
        workflow_id = str(DBOS.workflow_id)
        self._begun[workflow_id] += 1
        try:
            yield
        finally:
            self._begun[workflow_id] -= 1
            if not self._begun[workflow_id]:
                del self._begun[workflow_id]

    async def launch(self) -> None:
        """Begin to take work; the running event loop is the one it runs on."""
        DBOS.launch()
        for queue, most in self._queues.items():
            # An inspection never waits for a job; a job has the device to itself.
            await DBOS.register_queue_async(
                queue, worker_concurrency=most, polling_interval_sec=POLL_S, on_conflict="always_update"
            )

    async def stop(self, timeout_s: float, force: asyncio.Event) -> None:
        """Take no more work, let every child come to a checkpoint, and give what was running back to its queue.

        Children that have not after `timeout_s` seconds, or when `force` is set, are ended as they are.
        """
        for event in self._dbos.background_thread_stop_events:
            event.set()
        await self._runner.drain(timeout_s, force)
        for job in list(self._jobs.values()):
            await asyncio.to_thread(self._runner.journal.hand_back, job)
        await asyncio.to_thread(self._give_back)
        # Parked work is cancelled with the loop, of which DBOS warns at length.
        logging.getLogger("dbos").setLevel(logging.ERROR)

    def close(self) -> None:
        """Give back every connection."""
        DBOS.destroy()
        if self._connections is not None:
            self._connections.dispose()

    def running(self) -> list[Running]:
        """Return every workflow that some executor holds."""
        oldest_ms = (time.time() - self._inspect_timeout_s) * 1000
        rows = DBOS.list_workflows(status="PENDING", load_input=False, load_output=False)
        return [
            Running(
                workflow_id=row.workflow_id,
                queue=row.queue_name,
                executor_id=row.executor_id or "",
                # The API has given up waiting; and an upload that kills every worker must not be tried for ever.
                expired=row.queue_name == INSPECT_QUEUE and (row.created_at or 0) < oldest_ms,
            )
            for row in rows
            if row.queue_name is not None
        ]

    def adrift(self) -> list[Running]:
        """Return what the engine says this worker runs while it does not, now and when last asked."""
        mine = [running for running in self.running() if running.executor_id == self._worker_id]
        missed = {running.workflow_id: running for running in mine if not self._begun[running.workflow_id]}
        found = [missed[workflow_id] for workflow_id in sorted(self._missed & set(missed))]
        self._missed = set(missed)
        return found

    def outdated(self, versions: Collection[str]) -> list[str]:
        """Return the ids of queued workflows that only workers of other versions than these would take."""
        known = {version["version_name"] for version in DBOS.list_application_versions()}
        gone = sorted(known - {*versions, self._version})
        if not gone:
            return []
        rows = DBOS.list_workflows(
            status=["ENQUEUED", "DELAYED"], app_version=gone, load_input=False, load_output=False
        )
        return [row.workflow_id for row in rows]

    def resume(self, workflow_id: str, queue: str) -> None:
        """Give a workflow back to its queue; whoever held it can record nothing any more."""
        log.info("resume", action="resume", workflow_id=workflow_id, queue=queue)
        DBOS.resume_workflow(workflow_id, queue_name=queue)

    def cancel(self, workflow_id: str) -> None:
        """Cancel a workflow: a queued one is never begun, a running one is interrupted by its worker."""
        DBOS.cancel_workflow(workflow_id)

    def statuses(self, workflow_ids: list[str]) -> dict[str, str]:
        """Return the engine's status of these workflows; one that it does not know is left out."""
        if not workflow_ids:
            return {}
        rows = DBOS.list_workflows(workflow_ids=workflow_ids, load_input=False, load_output=False)
        return {row.workflow_id: row.status for row in rows}

    def _give_back(self) -> None:
        for running in self.running():
            if running.executor_id == self._worker_id:
                self.resume(running.workflow_id, running.queue)

    async def _prune(self, job_id: str) -> dict[str, Any]:
        """The workflow `prune`: the pipeline's steps in order, each durable."""
        await self._runner.park()
        workflow_id = str(DBOS.workflow_id)
        journal = self._runner.journal
        job = await asyncio.to_thread(journal.begin, job_id, workflow_id, self._runner.profile)
        if job is None:
            return {"ran": False}
        self._jobs[job_id] = job
        ids = {"job_id": job_id, "request_id": job.request_id, "traceparent": job.traceparent}
        with structlog.contextvars.bound_contextvars(**ids):
            begun_ns = time.time_ns()
            if job.attempt == 1:
                queued_ns = int(job.queued_s * 1e9)
                self._runner.tracing.past("queue", job.traceparent, begun_ns - queued_ns, begun_ns, **described(job))
            log.info("job begins", action="job_begin", kind=job.kind, attempt=job.attempt)
            try:
                await self._steps(job)
            except dbos_error.DBOSWorkflowCancelledError:
                await asyncio.to_thread(journal.finish_cancel, job_id, workflow_id)
                await self._tell_end(job, begun_ns)
                raise
            finally:
                self._jobs.pop(job_id, None)
            await self._tell_end(job, begun_ns)
        return {"ran": True}

    async def _tell_end(self, job: JobView, begun_ns: int) -> None:
        """Log and trace what came of the job, unless it goes on elsewhere."""
        end = await asyncio.to_thread(self._runner.journal.end, job)
        if end is not None:
            self._runner.tracing.past("job", job.traceparent, begun_ns, time.time_ns(), **described(job), **end)
            log.info("job ended", action="job_end", **end)

    async def _steps(self, job: JobView) -> None:
        results: dict[str, Mapping[str, Any]] = {}
        try:
            for index, step in enumerate(self._runner.pipeline(job).steps):
                if not step.when(results):
                    continue
                answer = await DBOS.run_step_async(
                    {"name": step.name, "preemptible": True}, self._step, job, index, results
                )
                if answer["result"] is None:
                    return
                results[step.name] = answer["result"]
        finally:
            await self._runner.release(job.id)
        await self._end(job, results)

    async def _step(self, job: JobView, index: int, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        try:
            return {"result": await self._runner.run_step(job, index, results)}
        except Stopping:
            await self._runner.park()
            raise
        except (Fenced, JobCancelled) as error:
            raise _over(job.id, error) from error
        except Exception as error:
            if not passes(error):
                raise
            raise _over(job.id, error) from error

    async def _end(self, job: JobView, results: Mapping[str, Mapping[str, Any]]) -> None:
        journal = self._runner.journal
        outcomes = [result["outcome"] for result in results.values() if result.get("outcome")]
        try:
            if outcomes or job.kind != "prune":
                await asyncio.to_thread(journal.succeed, job, outcomes[-1] if outcomes else None)
            else:
                await asyncio.to_thread(journal.fail, job, "internal_error", "No step gave the job an outcome.", {})
        except (Fenced, JobCancelled) as error:
            raise _over(job.id, error) from error

    async def _inspect(self, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
        """The workflow `inspect`: one durable step, whose answer is the workflow's."""
        await self._runner.park()
        return await DBOS.run_step_async({"name": kind, "preemptible": True}, self._look, kind, payload)

    async def _look(self, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
        try:
            return await inspect(self._runner, kind, payload)
        except Stopping:
            await self._runner.park()
            raise


def _over(job_id: str, error: Exception) -> dbos_error.DBOSWorkflowCancelledError:
    """The one exception that DBOS does not record as an outcome of the step or the workflow: this execution is simply over."""
    return dbos_error.DBOSWorkflowCancelledError(f"{type(error).__name__} {job_id}")


def _is_no_cancel(record: logging.LogRecord) -> bool:
    """Keep a record unless it is the traceback that DBOS logs for every workflow a user cancels."""
    return not (record.exc_info and isinstance(record.exc_info[1], dbos_error.DBOSAwaitedWorkflowCancelledError))
