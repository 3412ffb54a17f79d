"""A worker whose disk is full fails the job with a code that says so, and the job goes on when there is room."""

from pathlib import Path

import pytest

from app.queue import device_queue
from app.store.repositories import Jobs
from tests.disks import small_disk
from tests.integration.engine_service import Service, eventually


@pytest.fixture
def service(tmp_path: Path, sqlite_url: str) -> Service:
    """A service without a worker."""
    return Service(tmp_path, sqlite_url)


def test_a_step_without_room_is_tried_again_and_then_fails_with_its_code(service: Service) -> None:
    blobs = service.settings.blobs_folder
    inputs = {path.name: path.read_bytes() for path in blobs.glob("??/*")}
    with small_disk(blobs, 256 << 10):
        for name, content in inputs.items():
            (blobs / name[:2]).mkdir()
            (blobs / name[:2] / name).write_bytes(content)
        (blobs / "tmp").mkdir()
        filler = blobs / "filler"
        with pytest.raises(OSError, match="No space"):
            filler.write_bytes(bytes(1 << 20))
        try:
            service.start_worker()
            job_id = service.submit()
            job = service.ended(job_id)
            assert job.status == "failed" and job.failure is not None
            assert job.failure["code"] == "storage_full", job.failure
            assert [event.data["code"] for event in service.events(job_id, "warning")] == ["storage_full"]
            assert not list((blobs / "tmp").iterdir()), "half a file stayed"
            filler.unlink()
            with service.database.write() as session:
                workflow_id = Jobs(session).requeue(job_id)
                assert workflow_id is not None
                service.queue.enqueue_prune(
                    session, job_id=job_id, workflow_id=workflow_id, queue=device_queue("local"), priority=0, turn=0
                )
            eventually(lambda: service.job(job_id).status == "succeeded", "the job to succeed")
        finally:
            service.close()
