"""A migrated store with a model and a dataset, and what tests of workers do with it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.store.blobs import LocalBlobs
from app.store.models import PruneJobRow
from app.store.repositories import Devices, Jobs, Workers
from app.store.sessions import Database
from lut.profile import DeviceProfile
from workers.journal import Journal, Kept
from workers.view import JobView

PROFILE = DeviceProfile(hardware="toy", runtime="none", runtime_version="0", threads=1, batch=1)


@dataclass(kw_only=True)
class Store:
    """A migrated database and a blob store."""

    url: str
    database: Database
    blobs: LocalBlobs
    inputs: dict[str, str] = field(default_factory=dict)

    def add_worker(self, worker_id: str) -> Journal:
        """Register a worker and return its journal."""
        with self.database.write() as session:
            Devices(session).register("local", name="local", hardware="toy", runtime="none", runtime_version="0")
            Workers(session).register(worker_id, slot=worker_id.partition(":")[0], device_id="local")
        return Journal(self.database, self.blobs, worker_id, "local", {"max_zip_ratio": 100.0})

    def add_job(self, **spec: Any) -> PruneJobRow:
        """Submit a job."""
        with self.database.write() as session:
            values = {"threads": 2, "batch": 4, "seed": 0, **self.inputs, **spec}
            row = Jobs(session).add(name="", spec=values, device_id="local", **self.inputs)
            row.turn = 0
            return row

    def kept(self, name: str) -> Kept:
        """A file that a step left."""
        return Kept(name=name, blob=self.blobs.put_bytes(name.encode()), source=Path(name))

    def job(self, job_id: str) -> PruneJobRow:
        """The job as it is now."""
        with self.database.read() as session:
            row = Jobs(session).get(job_id)
            assert row is not None
            return row

    def begin(self, journal: Journal, job: PruneJobRow) -> JobView:
        """Let the worker begin the job."""
        view = journal.begin(job.id, job.workflow_id, PROFILE)
        assert view is not None
        return view
