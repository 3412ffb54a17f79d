"""Rows for tests of the repositories."""

import threading
from collections.abc import Callable

from sqlalchemy.orm import Session

from app.store.models import PruneJobRow
from app.store.repositories import (
    Datasets,
    Events,
    Jobs,
    Models,
)
from app.store.sessions import Database

SHA = "a" * 64


def add_model(session: Session, sha256: str = SHA) -> str:
    return (
        Models(session)
        .add(
            name="net",
            arch="cifar/resnet20",
            sha256=sha256,
            size_bytes=2**40,
            num_parameters=5,
            num_outputs=3,
            input_shape=None,
            class_names=None,
        )
        .id
    )


def add_dataset(session: Session) -> str:
    return (
        Datasets(session)
        .add(
            name="pets",
            sha256=SHA,
            size_bytes=9,
            image_size=32,
            mean=[0.5, 0.5, 0.5],
            std=[0.25, 0.25, 0.25],
            classes=["cat", "dog", "elk"],
            num_images={"train": 3},
            num_skipped=0,
            skipped=[],
            class_map=None,
        )
        .id
    )


def add_job(database: Database) -> str:
    with database.write() as session:
        model_id, dataset_id = add_model(session), add_dataset(session)
        return Jobs(session).add(name="", spec={}, model_id=model_id, dataset_id=dataset_id, device_id="local").id


def job(database: Database, job_id: str) -> PruneJobRow:
    with database.read() as session:
        row = Jobs(session).get(job_id)
        assert row is not None
        return row


def status_events(database: Database, job_id: str) -> list[str]:
    with database.read() as session:
        return [row.data["status"] for row in Events(session).after(job_id) if row.kind == "status"]


def run_together(*actions: Callable[[], object]) -> list[object]:
    """Results of actions begun at once in threads; an exception counts as its result."""
    barrier = threading.Barrier(len(actions))
    results: list[object] = [None] * len(actions)

    def run(position: int, action: Callable[[], object]) -> None:
        barrier.wait()
        try:
            results[position] = action()
        except Exception as error:  # noqa: BLE001  (the test judges it)
            results[position] = error

    threads = [threading.Thread(target=run, args=item) for item in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results
