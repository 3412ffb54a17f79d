"""A store for the tests of workers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.store.blobs import LocalBlobs
from app.store.migrate import migrate_tables
from app.store.repositories import Datasets, Models
from app.store.sessions import Database
from tests.unit.workers.worker_store import Store


@pytest.fixture
def store(tmp_path: Path, empty_url: str) -> Iterator[Store]:
    """A store with a model and a dataset, on SQLite and on Postgres."""
    migrate_tables(empty_url)
    store = Store(url=empty_url, database=Database(empty_url), blobs=LocalBlobs(tmp_path / "blobs"))
    blob = store.blobs.put_bytes(b"weights")
    with store.database.write() as session:
        model = Models(session).add(
            name="m", arch="toy", sha256=blob.sha256, size_bytes=blob.size_bytes, num_parameters=1, num_outputs=1,
            input_shape=None, class_names=None,
        )  # fmt: skip
        dataset = Datasets(session).add(
            name="d", sha256=blob.sha256, size_bytes=blob.size_bytes, image_size=8, mean=[0.0], std=[1.0],
            classes=["a"], num_images={"train": 1}, num_skipped=0, skipped=[], class_map=None,
        )  # fmt: skip
        store.inputs = {"model_id": model.id, "dataset_id": dataset.id}
    yield store
    store.database.close()
