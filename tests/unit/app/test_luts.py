"""The registry's rows: versions that never change, one winner of two writers, pairs, files, references of blobs."""

import threading
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from app.store.models import LutRow
from app.store.repositories import Devices, Holds, Jobs, Luts, Models, Moved
from app.store.sessions import Database


@pytest.fixture(autouse=True)
def device(database: Database) -> None:
    """A device for the tables."""
    with database.write() as session:
        Devices(session).register("local", name="l", hardware="cpu", runtime="ort", runtime_version="1")


def save(database: Database, content: str, **change: Any) -> LutRow:
    values: dict[str, Any] = {
        "device_id": "local", "fingerprint": "f", "blob_sha256": content * 64, "num_entries": 1, "num_signatures": 1,
        "profile": {"threads": 1, "batch": 1, "runtime": "ort"}, "step": 8, "noise": 0.0, "seconds": 1.0,
    }  # fmt: skip
    with database.write() as session:
        return Luts(session).save(**(values | change))


def publish(luts: Luts, lut: LutRow) -> None:
    row = luts.get(lut.id, lock=True)
    assert row is not None
    luts.publish(row, row.version)


def test_every_change_is_a_version_and_none_is_ever_changed(database: Database) -> None:
    first = save(database, "a", name="titan.csv")
    assert (first.version, first.imported) == (1, True)
    assert save(database, "a", job_id="job_1").version == 1, "the same content is no change"
    again = save(database, "b", job_id="job_1", num_entries=5)
    assert (again.id, again.version, again.num_entries, again.imported) == (first.id, 2, 5, True)
    with database.read() as session:
        rows = Luts(session).versions(first.id).rows
        assert [(row.number, row.source, row.job_id, row.name, row.num_entries) for row in rows] == [
            (2, "job", "job_1", "", 5),
            (1, "import", None, "titan.csv", 1),
        ]
        assert [row.number for row in Luts(session).versions(first.id, before="2").rows] == [1]
        assert Luts(session).versions(first.id, limit=1).next_before == "2"


def test_what_was_merged_from_an_older_version_is_not_stored(database: Database) -> None:
    save(database, "a", expected=0)
    save(database, "b", expected=1)
    for expected in (0, 1, 3):
        with pytest.raises(Moved):
            save(database, "c", expected=expected)
    with pytest.raises(Moved):
        save(database, "c", fingerprint="other", expected=1)
    with database.read() as session:
        assert Luts(session).find("local", "other") is None, "a refused first version leaves no table"


def test_of_writers_that_merged_from_one_version_one_wins(database: Database) -> None:
    start = threading.Barrier(4)
    won: list[str] = []

    def write(content: str) -> None:
        start.wait()
        try:
            save(database, content, expected=0)
            won.append(content)
        except Moved:
            return

    threads = [threading.Thread(target=write, args=(content,)) for content in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    with database.read() as session:
        row = Luts(session).find("local", "f")
        assert row is not None and (row.version, row.blob_sha256) == (1, won[0] * 64)


def test_tables_are_found_by_their_setting(database: Database) -> None:
    one = save(database, "a")
    two = save(database, "b", fingerprint="g", profile={"threads": 2, "batch": 8, "runtime": "openvino"})
    with database.write() as session:
        luts = Luts(session)
        publish(luts, one)

        def ids(**wanted: Any) -> list[str]:
            return [row.id for row in luts.page(**wanted).rows]

        assert ids() == [two.id, one.id]
        assert ids(threads=2) == ids(batch=8) == ids(runtime="openvino") == ids(published=False) == [two.id]
        assert ids(published=True) == ids(device_id="local", runtime="ort", threads=1) == [one.id]
        assert ids(threads=3) == ids(runtime="o'rt") == []


def test_a_published_table_comes_before_one_that_was_touched_later(database: Database) -> None:
    reference = save(database, "a")
    later = save(database, "b", fingerprint="g")
    setting = {"threads": 1, "batch": 1}
    with database.write() as session:
        luts = Luts(session)
        newest = luts.newest("local", **setting)
        assert newest is not None and newest.id == later.id
        publish(luts, reference)
        found = luts.newest("local", **setting, share=True)
        assert found is not None and found.id == reference.id
        assert luts.newest("local", **setting, runtime="openvino") is None


def test_a_residual_is_the_median_error_of_all_jobs(database: Database) -> None:
    lut = save(database, "a")
    with database.write() as session:
        luts = Luts(session)
        assert luts.add_pair("lut_gone", job_id="j", version=1, predicted_ms=1, measured_ms=1) is None
        for job, predicted in (("j1", 1.1), ("j2", 0.7), ("j3", 1.0), ("j1", 1.2)):
            residual = luts.add_pair(lut.id, job_id=job, version=1, predicted_ms=predicted, measured_ms=1.0)
        assert residual == pytest.approx(0.2)
        row = luts.get(lut.id)
        assert row is not None and (row.num_pairs, row.residual) == (3, residual)
        assert [pair.predicted_ms for pair in luts.pairs(lut.id)] == [1.2, 0.7, 1.0]


def test_every_version_and_file_keeps_its_blob_until_the_table_goes(database: Database) -> None:
    lut = save(database, "a")
    save(database, "b")
    with database.write() as session:
        luts = Luts(session)
        assert luts.save_file(lut.id, "csv", made_of="v1", sha256="c" * 64) is None
        assert luts.file(lut.id, "csv", "v2") is None and luts.file(lut.id, "csv", "v1") is not None
        assert luts.save_file(lut.id, "csv", made_of="v2", sha256="d" * 64) == "c" * 64
        holds = Holds(session)
        assert {name * 64 for name in "abd"} <= holds.all_referenced() and not holds.is_referenced("c" * 64)
        row = luts.get(lut.id, lock=True)
        assert row is not None
        assert luts.delete(row) == [name * 64 for name in "abd"]
        assert not any(holds.is_referenced(name * 64) for name in "abd")


def test_jobs_that_may_use_a_table_are_found_before_they_begin(database: Database) -> None:
    with database.write() as session:
        model = Models(session).add(
            name="m", arch="toy", sha256="e" * 64, size_bytes=1, num_parameters=1, num_outputs=1,
            input_shape=None, class_names=None,
        )  # fmt: skip
        spec = {"threads": 1, "batch": 1, "also": [{"device": "phone", "threads": 4, "batch": 1, "runtime": None}]}
        jobs = Jobs(session)
        row = jobs.add(name="", spec=spec, model_id=model.id, dataset_id=None, device_id="local", kind="lut_build")
        assert row.id.startswith("bld_")
        assert jobs.active_on_device("local") == jobs.active_on_device("phone") == [row.id]
        assert jobs.active_on_device("phone", {"threads": 4, "batch": 1, "runtime": "x"}) == [row.id]
        assert jobs.active_on_device("phone", {"threads": 1, "batch": 1}) == []
        assert jobs.page().rows == [] and jobs.page(kind="lut_build").rows == [row]
        jobs.request_cancel(row.id)
        assert jobs.active_on_device("local") == []


def test_a_device_is_made_once_and_deleted(database: Database) -> None:
    values = {"name": "t", "hardware": "TITAN", "runtime": "imported", "runtime_version": ""}
    with database.write() as session:
        row = Devices(session).add("titanv", **values)
        assert Devices(session).get("titanv", share=True) is row
    with pytest.raises(IntegrityError), database.write() as session:
        Devices(session).add("titanv", **values)
    with database.write() as session:
        found = Devices(session).get("titanv", lock=True)
        assert found is not None
        Devices(session).delete(found)
        assert Devices(session).get("titanv") is None
